"""`NAME_FILE` gives the value of each setting that is a secret."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from plinth.settings import PlatformSettings, SettingsError, secret_files
from tests.plinth.unit.settings.test_secrets import everything_shown
from tests.support.settings import PRODUCTION, SENTINEL, problems

FILES = secret_files.variables(PlatformSettings.model_fields)
VALUES = {
    "SECRET_KEY": "a-key-in-a-file",
    "DATABASE_URL": "postgresql://app:from-a-file@db/app",
    "DATABASE_REPLICA_URL": "postgresql://app:from-a-file@standby/app",
    "REDIS_URL": "redis://:from-a-file@cache:6379/0",
    "UPSTASH_REDIS_TOKEN": "a-token-in-a-file",
    "UPSTASH_REDIS_REST_TOKEN": "a-token-in-a-file",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=a-key-in-a-file",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-api-key=a-key-in-a-file",
    "OPS_CLIENT_SECRET": "a-secret-in-a-file",
    "SUPABASE_JWT_SECRET": "a-secret-in-a-file-which-is-long-enough",
    "JOBS_ENCRYPTION_KEY": "a-secret-in-a-file-which-is-long-enough",
}


def test_every_secret_has_a_variable_for_its_file() -> None:
    assert {f"{name}_FILE": name for name in VALUES} == FILES


def test_secret_of_a_service_has_one_too_unless_that_is_a_setting() -> None:
    class Own(PlatformSettings):
        STRIPE_KEY: SecretStr | None = None
        MAIL_PASSWORD: SecretStr = SecretStr("")
        MAIL_PASSWORD_FILE: str = ""

    assert set(secret_files.variables(Own.model_fields)) - set(FILES) == {"STRIPE_KEY_FILE"}


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("name", VALUES)
def test_secret_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, end: str) -> None:
    (tmp_path / "secret").write_bytes((VALUES[name] + end).encode())
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    if name.endswith("_TOKEN"):
        monkeypatch.setenv(name.replace("TOKEN", "URL"), "https://x.upstash.io")
    found = PlatformSettings()
    assert getattr(found, name).get_secret_value() == VALUES[name]
    assert name in found.model_fields_set


def test_env_file_names_files_too_and_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    Path(".env").write_text(f"SECRET_KEY_FILE={tmp_path}/one\n")
    assert PlatformSettings().SECRET_KEY.get_secret_value() == "one"
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "two"))
    assert PlatformSettings().SECRET_KEY.get_secret_value() == "two"
    monkeypatch.setenv("SECRET_KEY_FILE", "")
    assert PlatformSettings().SECRET_KEY.get_secret_value() == "one"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected a file that can be read (no such file or directory)"),
        (b"", "expected a file with the secret, and it is empty"),
        (b"\n", "expected a file with the secret, and it is empty"),
        (b"a\0b", "expected a file that holds the secret alone, of at most 65536 bytes"),
        (b"x" * 70_000, "expected a file that holds the secret alone, of at most 65536 bytes"),
        (b"\xff\xfe", "expected a file of text in UTF-8"),
    ],
)
def test_file_without_a_secret_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    for name, value in PRODUCTION.items():
        if name != "SECRET_KEY":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "secret"))
    # Once: not as a missing SECRET_KEY as well.
    assert problems(PlatformSettings) == [f"SECRET_KEY_FILE (environment): {expected}"]


def test_folder_is_not_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path))
    assert problems(PlatformSettings) == [
        "REDIS_URL_FILE (environment): expected a file that can be read (is a directory)"
    ]


def test_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        monkeypatch.setenv("REDIS_URL_FILE", path)
        assert problems(PlatformSettings) == [
            "REDIS_URL_FILE (environment): expected a file that can be read (not a regular file)"
        ]


def test_byte_order_mark_of_an_editor_is_no_part_of_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfa-key-in-a-file\r\n")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "secret"))
    assert PlatformSettings().SECRET_KEY.get_secret_value() == "a-key-in-a-file"


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_value_and_file_at_once_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    (tmp_path / "secret").write_text("one")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "secret"))
    if place == "environment":
        monkeypatch.setenv("SECRET_KEY", "two")
    else:
        Path(".env").write_text("SECRET_KEY=two\n")
    assert problems(PlatformSettings) == [
        "SECRET_KEY_FILE (environment): SECRET_KEY is set too: expected one of the two"
    ]


def test_wrong_value_of_a_file_is_named_by_its_variable_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"mysql://app:{SENTINEL}@db/app")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError) as caught:
        PlatformSettings()
    assert caught.value.problems == ["DATABASE_URL (DATABASE_URL_FILE): expected a URL that starts with postgresql://"]
    frames = caught.value.with_traceback(caught.tb.tb_next)
    assert SENTINEL not in everything_shown(frames)


def test_isolated_settings_read_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY_FILE", "/nowhere")
    PlatformSettings.isolated()


def test_misspelt_variable_of_a_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY_FLIE", "/nowhere")
    (found,) = problems(PlatformSettings)
    assert found.startswith("SECRET_KEY_FLIE (environment): did you mean SECRET_KEY_FILE?")
