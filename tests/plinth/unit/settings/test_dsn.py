import asyncio
import inspect
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from plinth.settings.dsn import PostgresURL

NASTY = "p@ss:w/o?r#d&= +%41%[]é,"


def seen_by_asyncpg(url: str) -> dict[str, Any]:
    """The arguments of `asyncpg.connect` that SQLAlchemy makes of our URL."""
    parsed = make_url(PostgresURL.parse(url).for_asyncpg())
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    return dict(arguments)


def refusal(url: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        PostgresURL.parse(url)
    return str(caught.value)


class TestScheme:
    @pytest.mark.parametrize(
        "scheme",
        ["postgres", "postgresql", "POSTGRES", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"],
    )
    def test_every_scheme_of_postgresql_becomes_that_of_asyncpg(self, scheme: str) -> None:
        address = PostgresURL.parse(f"{scheme}://app:pass@db:5433/app")
        assert address.for_asyncpg() == "postgresql+asyncpg://app:pass@db:5433/app"
        assert address.for_libpq() == "postgresql://app:pass@db:5433/app"

    @pytest.mark.parametrize(
        "url", ["mysql://db/app", "sqlite:///app.db", "postgresql:/db", "db/app", "", "postgresqlx://db"]
    )
    def test_database_url_of_another_scheme_is_refused(self, url: str) -> None:
        assert refusal(url) == "expected a URL that starts with postgresql://"


class TestCredentials:
    @pytest.mark.parametrize(
        "place", ["postgresql://{0}:{0}@db/{0}", "postgresql://db?user={0}&password={0}&dbname={0}"]
    )
    def test_every_character_of_a_password_is_kept(self, place: str) -> None:
        url = place.format(quote(NASTY, safe=""))
        seen = seen_by_asyncpg(url)
        assert (seen["user"], seen["password"], seen["database"]) == (NASTY, NASTY, NASTY)
        assert PostgresURL.parse(PostgresURL.parse(url).for_libpq()) == PostgresURL.parse(url)

    def test_an_at_sign_in_the_password_needs_no_encoding(self) -> None:
        assert seen_by_asyncpg("postgresql://app:p@ss@db/app")["password"] == "p@ss"

    @pytest.mark.parametrize(
        "url", ["postgresql://app:pa/ss@db/app", "postgresql://app:12/34@db/app", "postgresql://app:12?x=1@db/app"]
    )
    def test_url_separators_in_the_password_have_to_be_encoded(self, url: str) -> None:
        assert "percent-encode" in refusal(url)

    def test_credentials_of_a_database_url_may_be_left_out(self) -> None:
        assert PostgresURL.parse("postgresql:///").for_asyncpg() == "postgresql+asyncpg:///"
        assert seen_by_asyncpg("postgresql://:pass@db/app")["password"] == "pass"
        assert seen_by_asyncpg("postgresql://app@db/app") == {"user": "app", "host": "db", "database": "app"}


class TestHosts:
    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("postgresql://db/app", "db", None),
            ("postgresql://db:5433/app", "db", 5433),
            ("postgresql://db:/app", "db", None),
            ("postgresql://db?port=5433", "db", 5433),
            ("postgresql://db:1/app?host=other", "other", None),
            ("postgresql://[::1]/app", "::1", None),
            ("postgresql://[2001:db8::1]:5433/app", "2001:db8::1", 5433),
            ("postgresql:///app?host=::1", "::1", None),
            ("postgresql:///app?host=/run/postgresql", "/run/postgresql", 5432),
            ("postgresql:///app?host=%2Ftmp%2Fa%20b&port=5433", "/tmp/a b", 5433),
            ("postgresql://%2Ftmp%2Fx:5433/app", "/tmp/x", 5433),
            ("postgresql://one:1,two,[::1]:3/app", ["one", "two", "::1"], [1, 5432, 3]),
            ("postgresql:///app?host=one,/run/two&port=1,2", ["one", "/run/two"], [1, 2]),
            ("postgresql://one,two/app?port=7", ["one", "two"], [7, 7]),
            ("postgresql:///app", None, None),
            ("postgresql://:5433/app", "localhost", 5433),
        ],
    )
    def test_hosts_reach_asyncpg(self, url: str, host: str | list[str] | None, port: int | list[int] | None) -> None:
        seen = seen_by_asyncpg(url)
        assert (seen.get("host"), seen.get("port")) == (host, port)

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("postgresql://one:1,[::1]:3/app", "postgresql://one:1,[::1]:3/app"),
            ("postgresql:///app?host=/tmp/x&port=5433", "postgresql://%2Ftmp%2Fx:5433/app"),
            ("postgresql:///app", "postgresql:///app"),
        ],
    )
    def test_hosts_reach_libpq(self, url: str, expected: str) -> None:
        assert PostgresURL.parse(url).for_libpq() == expected

    @pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "+5", "\u0665", "5432x"])
    @pytest.mark.parametrize(
        "url", ["postgresql://db:{}/app", "postgresql://[::1]:{}/app", "postgresql://db/app?port={}"]
    )
    def test_port_that_is_not_a_number_is_refused(self, url: str, port: str) -> None:
        assert refusal(url.format(port)).startswith("expected a port from 1 to 65535")

    def test_number_of_ports_has_to_match_the_hosts(self) -> None:
        assert refusal("postgresql://a,b,c/app?port=1,2") == "expected one port, or as many as there are hosts"

    def test_port_in_the_host_parameter_is_refused(self) -> None:
        assert "in the parameter port" in refusal("postgresql:///app?host=db:5432")


class TestParameters:
    @pytest.mark.parametrize(
        ("query", "ssl"),
        [
            *((f"sslmode={mode}", mode) for mode in ("disable", "allow", "prefer", "require")),
            ("sslmode=verify-full&sslrootcert=system", "verify-full"),
            ("sslrootcert=system", "verify-full"),
            ("ssl=true", "require"),
            ("ssl=prefer", "prefer"),
            ("", None),
        ],
    )
    def test_sslmode_becomes_ssl(self, query: str, ssl: str | None) -> None:
        assert seen_by_asyncpg(f"postgresql://db/app?{query}").get("ssl") == ssl

    def test_parameters_become_arguments_of_asyncpg(self) -> None:
        address = PostgresURL.parse(
            "postgresql://db/app?connect_timeout=7&target_session_attrs=read-write&application_name=a%20b+c"
            "&options=-c%20search_path%3Dx&channel_binding=require&sslmode=require"
        )
        assert address.connect_arguments() == {
            "timeout": 7.0,
            "target_session_attrs": "read-write",
            "server_settings": {"application_name": "a b+c", "options": "-c search_path=x"},
        }

    def test_parameters_reach_libpq_unchanged(self) -> None:
        query = "sslmode=require&connect_timeout=7&channel_binding=require&options=-c%20search_path%3Da+b"
        assert PostgresURL.parse(f"postgres://db/app?{query}&pgbouncer=true").for_libpq() == (
            f"postgresql://db/app?{query.replace('+', '%2B')}"
        )

    @pytest.mark.parametrize(("query", "expected"), [("pgbouncer=true", True), ("pgbouncer=false", False), ("", False)])
    def test_pgbouncer_parameter_means_a_transaction_pooler(self, query: str, expected: bool) -> None:
        assert PostgresURL.parse(f"postgresql://db/app?{query}").transaction_pooler is expected

    @pytest.mark.parametrize(
        "name", ["sslcrl", "service", "hostaddr", "schema", "prepared_statement_cache_size", "SSLMODE"]
    )
    def test_unknown_database_url_parameter_is_an_error_with_its_name(self, name: str) -> None:
        message = refusal(f"postgresql://db/app?sslmode=require&{name}=0")
        assert message == f"asyncpg has no counterpart for the parameter {name!r}: leave it out"

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("sslmode=on", "expected sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslmode", "expected sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslrootcert=system&sslmode=disable", "sslrootcert=system needs sslmode=verify-full"),
            ("pgbouncer=1", "expected pgbouncer to be one of false, true"),
            ("connect_timeout=soon", "expected connect_timeout in whole seconds, from 1 to 9999"),
            ("connect_timeout=0", "expected connect_timeout in whole seconds, from 1 to 9999"),
            ("host=one&host=two", "expected the parameter 'host' once"),
            ("sslmode=require&ssl=true", "expected the parameter 'sslmode' once"),
            ("sslmode=verify-ca&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
            ("sslmode=require&sslcert=/nowhere", "sslcert: no readable file is there"),
            ("sslmode=require&sslkey=/", "sslkey: no readable file is there"),
        ],
    )
    def test_wrong_database_url_parameter_is_refused(self, query: str, message: str) -> None:
        assert refusal(f"postgresql://db/app?{query}") == message

    def test_wrong_session_attribute_is_refused(self) -> None:
        message = refusal("postgresql://db/app?target_session_attrs=master")
        assert message.startswith("expected target_session_attrs to be one of any, primary, standby")

    @pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
    def test_certificate_verification_needs_a_root_certificate(self, mode: str) -> None:
        assert refusal(f"postgresql://db/app?sslmode={mode}").startswith(f"sslmode={mode} needs sslrootcert")

    @pytest.mark.parametrize("mode", ["", "&sslmode=disable", "&sslmode=allow", "&sslmode=prefer"])
    def test_root_certificate_needs_an_encrypted_sslmode(self, tmp_path: Path, mode: str) -> None:
        (tmp_path / "ca.pem").touch()
        message = refusal(f"postgresql://db/app?sslrootcert={tmp_path}/ca.pem{mode}")
        assert message == "sslrootcert needs sslmode=require, verify-ca or verify-full"


class TestAsyncpg:
    """What the module assumes about asyncpg."""

    def test_asyncpg_takes_every_argument(self) -> None:
        address = PostgresURL.parse(
            "postgresql://app:pass@db:1/app?sslrootcert=system&connect_timeout=7&target_session_attrs=any&options=x"
        )
        arguments = seen_by_asyncpg("postgresql://app:pass@db:1/app?ssl=require") | address.connect_arguments()
        inspect.signature(asyncpg.connect).bind(**arguments)
        assert {"user", "password", "host", "port", "database", "ssl", "timeout", "server_settings"} < set(arguments)

    @pytest.mark.parametrize("attribute", ["any", "primary", "standby", "prefer-standby", "read-write", "read-only"])
    def test_asyncpg_knows_every_session_attribute(self, attribute: str) -> None:
        address = PostgresURL.parse(f"postgresql://127.0.0.1:1/app?target_session_attrs={attribute}&user=app")
        with pytest.raises(OSError, match=r"\b1\b"):  # it tried to connect to port 1, on which nothing listens
            asyncio.run(asyncpg.connect(host="127.0.0.1", port=1, user="app", **address.connect_arguments()))


class TestSecrets:
    URL = "postgresql://app:s3cret@db/app?sslmode=require&sslpassword=s3cret"

    def test_secrets_are_not_in_the_repr_of_a_database_url(self) -> None:
        assert "s3cret" not in repr(PostgresURL.parse(self.URL))

    def test_secrets_of_a_database_url_are_masked(self) -> None:
        assert PostgresURL.parse(self.URL).masked() == (
            "postgresql://app:********@db/app?sslmode=require&sslpassword=********"
        )
