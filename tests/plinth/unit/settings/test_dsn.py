import asyncio
import inspect
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from plinth.database.hosts import connect
from plinth.settings.dsn import PostgresURL

OUR_OWN = ("keepalive", "shuffle")  # arguments of `plinth.database.hosts.connect` alone
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

    @pytest.mark.parametrize(
        "url", ["postgresql://a%00:s3cret@db/app", "postgresql://db/a%00", "postgresql://db/app?application_name=%00"]
    )
    def test_character_that_the_protocol_cannot_carry_is_refused(self, url: str) -> None:
        assert refusal(url) == "expected no %00"

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
        ("name", "hint"),
        [
            ("schema", ""),
            ("prepared_statement_cache_size", ""),
            ("SSLMODE", "; did you mean sslmode?"),
            ("sslmod", "; did you mean sslmode?"),
            ("conect_timeout", "; did you mean connect_timeout?"),
            ("keepalive", "; did you mean keepalives?"),
            ("", ""),
        ],
    )
    def test_unknown_database_url_parameter_is_an_error_with_its_name(self, name: str, hint: str) -> None:
        message = refusal(f"postgresql://db/app?sslmode=require&{name}=s3cret")
        assert message == f"{name!r} is not a parameter of libpq{hint}"

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("sslmode=on", "expected sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslmode", "expected sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"),
            ("sslrootcert=system&sslmode=disable", "sslrootcert=system needs sslmode=verify-full"),
            ("pgbouncer=1", "expected pgbouncer to be one of false, true"),
            ("connect_timeout=soon", "expected connect_timeout in whole seconds, from 1 to 9999"),
            ("connect_timeout=0", "expected connect_timeout in whole seconds, from 1 to 9999"),
            ("connect_timeout=-1", "expected connect_timeout in whole seconds, from 1 to 9999"),
            (
                "sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
                "expected ssl_min_protocol_version to be no newer than ssl_max_protocol_version",
            ),
            *(
                (query, f"{name} needs sslmode=require, verify-ca or verify-full")
                for query, name in (
                    ("ssl_min_protocol_version=TLSv1.3", "ssl_min_protocol_version"),
                    ("sslnegotiation=direct", "sslnegotiation=direct"),
                    ("sslnegotiation=direct&sslmode=prefer", "sslnegotiation=direct"),
                )
            ),
            ("keepalives_idle=32768", "expected keepalives_idle to be a whole number of at most 32767"),
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


# The list of PostgreSQL 17's libpq, without `authtype` and the like that it only knows the names of: values that are
# taken, whether an empty one counts as left out, as in libpq, and values that are refused.
FILE = __file__
CHOICE, TEXT = False, True
LIBPQ: dict[str, tuple[list[str], bool, list[str]]] = {
    "service": ([], TEXT, ["app"]),
    "user": (["app"], TEXT, []),
    "password": (["s3cret"], TEXT, []),
    "passfile": ([FILE], TEXT, ["/no/such/file"]),
    "channel_binding": (["disable", "prefer", "require"], CHOICE, ["yes", "1"]),
    "connect_timeout": (["1", "10", "9999"], CHOICE, ["0", "-1", "1.5", "soon", "10s", "99999"]),
    "dbname": (["app"], TEXT, []),
    "host": (["db", "/run/postgresql", "::1", "one,two"], TEXT, ["a..b", "x" * 64]),
    "hostaddr": ([], TEXT, ["10.0.0.7"]),
    "port": (["5432"], TEXT, ["0", "x", "65536"]),
    "client_encoding": (["UTF8", "utf-8"], TEXT, ["auto", "LATIN1", "SQL_ASCII"]),
    "options": (["-c search_path=x"], TEXT, []),
    "application_name": (["orders"], TEXT, []),
    "fallback_application_name": (["orders"], TEXT, []),
    "keepalives": (["0", "1", "-1"], CHOICE, ["on", "true", "1.0"]),
    "keepalives_idle": (["0", "30", "-1"], CHOICE, ["30s", "99999", "1.5"]),
    "keepalives_interval": (["0", "10"], CHOICE, ["x"]),
    "keepalives_count": (["0", "3"], CHOICE, ["128", "x"]),
    "tcp_user_timeout": (["0", "30000"], CHOICE, ["30s", "99999999999"]),
    "sslmode": (["disable", "allow", "prefer", "require"], CHOICE, ["on", "true", "verify", "verify-full"]),
    "requiressl": (["0", "1"], TEXT, ["2", "true"]),
    "sslnegotiation": (["postgres"], CHOICE, ["direct", "tls"]),
    "sslcompression": (["0", "1"], TEXT, ["2"]),
    "sslcert": ([], TEXT, [FILE, "/no/such/file"]),
    "sslkey": ([], TEXT, [FILE, "/no/such/file"]),
    "sslpassword": (["s3cret"], TEXT, []),
    "sslcertmode": (["allow"], CHOICE, ["disable", "require"]),
    "sslrootcert": (["system"], TEXT, [FILE, "/no/such/file"]),
    "sslcrl": ([], TEXT, [FILE]),
    "sslcrldir": ([], TEXT, ["/tmp"]),
    "sslsni": (["1"], CHOICE, ["0", "2"]),
    "requirepeer": ([], TEXT, ["postgres"]),
    "require_auth": ([], TEXT, ["scram-sha-256", "!password", "none"]),
    "ssl_min_protocol_version": ([], TEXT, ["TLSv1.2", "SSLv3"]),
    "ssl_max_protocol_version": ([], TEXT, ["TLSv1.3", "TLSv1"]),
    "gssencmode": (["disable", "prefer"], CHOICE, ["require", "on"]),
    "krbsrvname": (["postgres"], TEXT, []),
    "gsslib": (["gssapi"], TEXT, ["mit"]),
    "gssdelegation": (["0"], CHOICE, ["1"]),
    "replication": (["false", "off", "no", "0"], TEXT, ["true", "on", "yes", "1", "database"]),
    "target_session_attrs": (
        ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"],
        CHOICE,
        ["master"],
    ),
    "load_balance_hosts": (["disable", "random"], CHOICE, ["round-robin"]),
}


class TestLibpq:
    @pytest.mark.parametrize("name", LIBPQ)
    def test_parameter_of_libpq_is_understood_or_refused_in_a_sentence(self, name: str) -> None:
        taken, empty_is_left_out, refused = LIBPQ[name]
        for value in taken:
            address = PostgresURL.parse(f"postgresql://db/app?{name}={quote(value)}")
            arguments = seen_by_asyncpg(f"postgresql://db/app?{name}={quote(value)}") | address.connect_arguments()
            inspect.signature(connect).bind(**arguments)
            inspect.signature(asyncpg.connect).bind(**{key: arguments[key] for key in arguments if key not in OUR_OWN})
        if empty_is_left_out:
            left_out = PostgresURL.parse("postgresql://db/app")
            assert PostgresURL.parse(f"postgresql://db/app?{name}=").connect_arguments() == left_out.connect_arguments()
        else:
            assert name in refusal(f"postgresql://db/app?{name}=")
        for value in refused:
            message = refusal(f"postgresql://db/app?{name}={quote(value)}")
            assert name in message or "host" in message
            assert not any(value in message for value in ("s3cret", FILE, "scram-sha-256", "10.0.0.7"))

    @pytest.mark.parametrize(
        ("query", "arguments"),
        [
            ("keepalives=1", {"keepalive": {"keepalives": 1}}),
            ("keepalives=0", {"keepalive": {"keepalives": 0}}),
            (
                "keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=30000",
                {
                    "keepalive": {
                        "keepalives_idle": 30,
                        "keepalives_interval": 10,
                        "keepalives_count": 3,
                        "tcp_user_timeout": 30000,
                    }
                },
            ),
            ("sslnegotiation=direct&sslmode=require", {"direct_tls": True}),
            ("load_balance_hosts=random", {"shuffle": True}),
            ("load_balance_hosts=disable", {}),
            ("krbsrvname=pg&gsslib=gssapi", {"krbsrvname": "pg", "gsslib": "gssapi"}),
            (f"passfile={FILE}", {"passfile": FILE}),
            ("channel_binding=require&gssencmode=prefer&sslcompression=1&replication=false&client_encoding=UTF8", {}),
            ("fallback_application_name=psql", {}),
        ],
    )
    def test_parameter_has_libpq_s_meaning(self, query: str, arguments: dict[str, Any]) -> None:
        assert PostgresURL.parse(f"postgresql://db/app?{query}").connect_arguments() == arguments

    @pytest.mark.parametrize(("value", "mode"), [("1", "require"), ("0", "prefer"), ("", "prefer")])
    def test_requiressl_is_an_sslmode(self, value: str, mode: str) -> None:
        assert seen_by_asyncpg(f"postgresql://db/app?requiressl={value}")["ssl"] == mode

    def test_versions_of_tls_are_those_of_the_context(self) -> None:
        query = "sslmode=require&ssl_min_protocol_version=TLSv1.3&sslnegotiation=direct"
        context = PostgresURL.parse(f"postgresql://db/app?{query}").connect_arguments()["ssl"]
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        query = "sslmode=require&ssl_min_protocol_version=TLSv1&ssl_max_protocol_version=TLSv1.2"
        context = PostgresURL.parse(f"postgresql://db/app?{query}").connect_arguments()["ssl"]
        assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_2,) * 2

    @pytest.mark.parametrize("url", ["postgresql://a..b/app", f"postgresql://{'x' * 64}/app", "postgresql://.db/app"])
    def test_host_that_no_resolver_takes_is_refused(self, url: str) -> None:
        assert refusal(url).startswith("expected a host name")


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


def test_the_page_on_settings_names_every_parameter_of_libpq() -> None:
    section = (
        (Path(__file__).parents[4] / "docs/settings.md")
        .read_text()
        .partition("## The parameters of DATABASE_URL")[2]
        .partition("\n## ")[0]
    )
    assert set(re.findall(r"`([a-z_]+)`", section)) >= LIBPQ.keys()
