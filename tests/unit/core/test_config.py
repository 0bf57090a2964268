import re
from pathlib import Path

import pytest

from app.core.config import Settings, get_settings, settings
from plinth.settings import Environment
from plinth.settings.env_file import misspelt
from scripts.values_schema import CHART_SCHEMA, ENV_EXAMPLE, explanations, generated
from tests.support.settings import clear_environment, run

LINE = re.compile(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable is set, and the working directory has no `.env`."""
    clear_environment(monkeypatch, tmp_path)
    get_settings.cache_clear()


def test_get_settings_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_settings()
    monkeypatch.setenv("PROJECT_NAME", "Later")
    assert get_settings() is first


def test_settings_is_read_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_NAME", "Mine")
    assert "Mine" not in repr(settings)
    assert settings.PROJECT_NAME == "Mine"
    assert settings.issuers == get_settings().issuers


def test_import_reads_nothing_and_loads_no_driver(tmp_path: Path) -> None:
    ran = run(
        "import sys, app.core.config; app.core.config.settings\n"
        "sys.exit([name for name in ('sqlalchemy', 'asyncpg', 'redis', 'fastapi') if name in sys.modules])",
        DB_POOL_SIZE="not a number",
    )
    assert (ran.returncode, ran.stderr) == (1, "[]\n")


def test_no_setting_looks_like_a_misspelling_of_another() -> None:
    names = Settings.model_fields.keys()
    for name in names:
        assert list(misspelt(names, names - {name})) == []


def test_env_example_has_every_setting_in_the_order_of_the_groups() -> None:
    names = [name for _, name, _ in LINE.findall(ENV_EXAMPLE.read_text())]
    assert names == list(Settings.model_fields)


def test_env_example_explains_every_setting() -> None:
    assert explanations(ENV_EXAMPLE.read_text()).keys() == Settings.model_fields.keys()


def test_env_example_loads_as_it_is() -> None:
    found = Settings(_env_file=ENV_EXAMPLE)
    assert found.ENVIRONMENT is Environment.LOCAL
    # `plinth run` brings what is not set.
    assert "DATABASE_URL" not in found.model_fields_set
    assert found.redis_url is None


def test_env_example_loads_with_every_line_switched_on(tmp_path: Path) -> None:
    everything = LINE.sub(r"\2=\3", ENV_EXAMPLE.read_text())
    (tmp_path / "all.env").write_text(everything)
    found = Settings(_env_file=tmp_path / "all.env")
    assert all(getattr(found, name) not in (None, ()) for name in Settings.model_fields)
    for provider in ("supabase", "clerk", "custom"):
        assert Settings(_env_file=tmp_path / "all.env", AUTH_PROVIDER=provider).issuers[0].startswith("https://")


def test_what_env_example_calls_a_default_is_the_default(tmp_path: Path) -> None:
    commented = [f"{name}={value}" for hash_, name, value in LINE.findall(ENV_EXAMPLE.read_text()) if hash_]
    (tmp_path / "all.env").write_text("\n".join(commented))
    found, default = Settings(_env_file=tmp_path / "all.env"), Settings.isolated()
    for name in Settings.model_fields:
        if getattr(default, name) not in (None, ()):
            assert getattr(found, name) == getattr(default, name), name


def test_the_schema_of_the_chart_is_made_of_the_settings() -> None:
    committed = CHART_SCHEMA.read_text()
    fresh = generated(Settings, committed, ENV_EXAMPLE.read_text())
    assert committed == fresh, "charts/plinth/values.schema.json does not match the settings: run `make schema`"
