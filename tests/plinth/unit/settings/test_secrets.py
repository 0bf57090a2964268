import pickle
import traceback
from pathlib import Path

import pytest

from plinth.cli.config import effective_configuration
from plinth.settings import PlatformSettings, SettingsError
from tests.support.settings import PRODUCTION, SECRETS, SENTINEL, run

MALFORMED = [
    ("SECRET_KEY", SENTINEL),
    ("DATABASE_URL", SENTINEL),
    ("DATABASE_URL", f"mysql://app:{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}/{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:12?{SENTINEL}=1@db/app"),
    ("DATABASE_URL", f"postgresql://app:12/{SENTINEL}@db/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}#{SENTINEL}@db:{SENTINEL}/app"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}@db/app?unheard_of={SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app:{SENTINEL}@db/app?sslmode={SENTINEL}"),
    ("DATABASE_URL", f"postgresql://app@db/app?sslmode=require&sslcert=/nowhere&sslpassword={SENTINEL}"),
    ("DATABASE_REPLICA_URL", f"postgresql://app:{SENTINEL}/{SENTINEL}@db/app"),
    ("DATABASE_REPLICA_URL", f"sqlite+aiosqlite:///{SENTINEL}"),
    ("REDIS_URL", f"http://:{SENTINEL}@cache"),
    ("REDIS_URL", f"redis://:{SENTINEL}/{SENTINEL}@cache:6379/0"),
    ("REDIS_URL", f"redis://:{SENTINEL}@cache:{SENTINEL}/0"),
    ("REDIS_URL", f"redis://[{SENTINEL}@cache"),
    ("REDIS_URL", f"redis+sentinel://:{SENTINEL}/{SENTINEL}@one,two/main/0"),
    ("REDIS_URL", f"redis+sentinel://:{SENTINEL}@one:{SENTINEL}/main"),
    ("REDIS_URL", f"redis+sentinel://one/main?sentinel_passwort={SENTINEL}"),
    ("UPSTASH_REDIS_URL", f"rediss://default:{SENTINEL}@x.upstash.io"),
    ("SUPABASE_JWT_SECRET", SENTINEL),
    ("SUPABASE_URL", f"https://app:{SENTINEL}@x.supabase.co"),
    ("OIDC_JWKS_URL", f"https://x.example.com?key={SENTINEL}"),
    ("BACKEND_CORS_ORIGINS", f'["{SENTINEL}'),
    ("DB_POOL_SIZE", SENTINEL),
    ("ENVIRONMENT", SENTINEL),
    ("RATE_LIMIT", SENTINEL),
]


def everything_shown(error: BaseException) -> str:
    """All that a log, a debugger or an error tracker shows: messages, tracebacks, causes, local variables."""
    shown = []
    pending: list[BaseException | None] = [error]
    while pending:
        if (current := pending.pop()) is not None:
            shown += [str(current), repr(current), repr(vars(current)), repr(current.args)]
            shown += traceback.TracebackException.from_exception(current, capture_locals=True).format()
            pending += [current.__cause__, current.__context__]
    return "".join(shown)


def test_secrets_are_not_in_any_form_of_the_settings() -> None:
    found = PlatformSettings.isolated(**SECRETS)
    shown = [
        repr(found),
        str(found),
        found.model_dump_json(),
        repr(found.model_dump()),
        repr(vars(found)),
    ]
    shown += [str(row) for row in effective_configuration(found)]
    assert SENTINEL not in "".join(shown)


def test_secrets_are_not_in_the_error_of_a_write() -> None:
    with pytest.raises(AttributeError) as caught:
        PlatformSettings.isolated().SECRET_KEY = SENTINEL  # type: ignore[assignment, misc]
    assert SENTINEL not in str(caught.value)


def test_secrets_are_not_in_the_errors_of_pydantic() -> None:
    assert PlatformSettings.model_config["hide_input_in_errors"]


def test_secrets_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="hold secrets"):
        pickle.dumps(PlatformSettings.isolated(**SECRETS))


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_secrets_are_not_in_errors_about_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable, secret in (PRODUCTION | SECRETS | {name: value}).items():
        monkeypatch.setenv(variable, secret)
    with pytest.raises(SettingsError) as caught:
        PlatformSettings()
    del value, secret  # they are in this frame, which is in the traceback
    assert name in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
    frames = caught.value.with_traceback(caught.tb.tb_next)
    assert SENTINEL not in everything_shown(frames)


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_secrets_are_not_in_errors_about_arguments(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PlatformSettings.isolated(**PRODUCTION | SECRETS | {name: value})
    assert SENTINEL not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_secrets_are_not_on_stderr_of_a_program_that_dies(tmp_path: Path) -> None:
    values = PRODUCTION | SECRETS | dict(MALFORMED) | {"ENVIRONMENT": "production"}
    (tmp_path / ".env").write_text(f"DATABSE_URL={SENTINEL}\nSECRET {SENTINEL}\nMIIEvQ{SENTINEL}==\n")
    ran = run("from plinth.settings import PlatformSettings; print(PlatformSettings().DEBUG)", **values)
    assert ran.returncode == 1
    for name in {name for name, _ in MALFORMED} - {"ENVIRONMENT"} | {
        "DATABSE_URL",
        "Traceback",
        ".env, line 2",
        ".env, line 3",
    }:
        assert name in ran.stderr
    assert SENTINEL not in ran.stderr + ran.stdout
