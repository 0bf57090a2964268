"""A small service in a folder of its own, whose tables and revisions tests write as they need them."""

import os
import shutil
import subprocess
from pathlib import Path

from plinth.database.migrator import Migrator
from plinth.settings import PlatformSettings
from plinth.settings.service import Service
from tests.support.forked import run_module

__all__ = ["Shop"]

SERVICE = Path(__file__).parents[1] / "service"

SETTINGS = """
from pathlib import Path

from plinth.settings import PlatformSettings
from plinth.settings.service import Service


class Settings(PlatformSettings):
    service = Service(version="1", application="", jobs="", models="", migrations=Path({migrations!r}))
"""

ENVIRONMENT = """
from plinth.migrations.environment import run_migrations
from sqlalchemy import MetaData

metadata = MetaData()
{settings}
{tables}
run_migrations(metadata, Settings)
"""

REVISION = """
from alembic import op

revision = "{name}"
down_revision = {after!r}
branch_labels = None
depends_on = {depends_on!r}


def upgrade() -> None:
    op.execute("{up}")


def downgrade() -> None:
    op.execute("{down}")
"""


class Shop:
    """The service, without revisions and tables at first."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.versions = folder / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        shutil.copy(SERVICE / "alembic.ini", folder)
        shutil.copy(SERVICE / "migrations" / "script.py.mako", folder / "migrations")
        self._settings = SETTINGS.format(migrations=str(folder / "migrations"))
        (folder / "shop.py").write_text(self._settings)
        (folder / "pyproject.toml").write_text('[tool.plinth]\nsettings = "shop:Settings"\n')
        self.tables("")

    def tables(self, code: str) -> None:
        """Make `code` the service's models; it adds tables to `metadata`, or sets it."""
        file = self.folder / "migrations" / "env.py"
        file.write_text(ENVIRONMENT.format(settings=self._settings, tables=code))

    def revision(
        self,
        name: str,
        after: str | None = None,
        *,
        up: str = "",
        depends_on: str | None = None,
    ) -> Path:
        """Write a revision, which makes a table of its name unless `up` says what it does."""
        file = self.versions / f"{name}.py"
        up = up or f"CREATE TABLE {name} (id int)"
        down = f"DROP TABLE {name}"
        file.write_text(REVISION.format(name=name, after=after, up=up, down=down, depends_on=depends_on))
        return file

    def settings(self) -> PlatformSettings:
        class Settings(PlatformSettings):
            service = Service(version="1", application="", jobs="", models="", migrations=self.folder / "migrations")

        return Settings.isolated(DATABASE_URL=self.url)

    def migrator(self) -> Migrator:
        return Migrator(self.settings())

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m` that, in the service's folder and with its database."""
        return run_module(*command, folder=self.folder, env={**os.environ, "DATABASE_URL": self.url, **environment})

    def alembic(self, *arguments: str) -> str:
        done = self.run("alembic", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
