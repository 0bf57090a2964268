"""A service that was started from the last release takes this tree's version: no conflict, its migrations go on."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from plinth.database.revisions import PLATFORM, read_revisions
from plinth.testing.servers import scratch_folder
from scripts.releases import releases
from tests.adoption.fork import OWN, ROOT, Fork, git

LOCK = "requirements/docs.txt"
OWN_ITEMS = '"""What an order is made of."""\n'

MODEL = '''"""Orders of a caller."""

from sqlalchemy import String
from sqlmodel import Field

from app.models.base import BaseModel


class Order(BaseModel, table=True):
    __tablename__ = "order"

    owner: str = Field(sa_type=String(255), index=True)
    customer: str = Field(sa_type=String(200))
'''

ENDPOINTS = '''"""Orders of the caller."""

from fastapi import APIRouter
from sqlmodel import select

from app.api.deps import SessionDep
from app.models.order import Order
from plinth.http.problems import problems

router = APIRouter(prefix="/orders", tags=["orders"])


@router.get("", responses=problems())
async def count(session: SessionDep) -> int:
    """How many orders there are."""
    return len((await session.exec(select(Order.id))).all())
'''

TEST = '''"""Orders, through the API."""

from plinth.testing import Client


async def test_there_are_none_at_first(client: Client) -> None:
    assert (await client.signed_in("alice").get("/orders")).json() == 0
'''

PLATFORM_REVISION = '''"""a change of the platform's

Revision: {name}
After: {after}
Made: 2026-11-30 00:00:00+00:00
"""

from alembic import op

revision = "{name}"
down_revision = "{after}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE upstream_change (id int)")


def downgrade() -> None:
    op.execute("DROP TABLE upstream_change")
'''


def last_release() -> str:
    """The commit that the changelog names last; before the first release, this tree's."""
    found = releases((ROOT / "CHANGELOG.md").read_text())
    return found[0].commit if found else "HEAD"


@pytest.fixture(scope="module")
def service() -> Iterator[Fork]:
    """A service with a resource of its own, a dependency, and other edits that services make."""
    with scratch_folder() as folder:
        fork = Fork(folder / "service", last_release())
        fork.made("start", "NAME=orders-api")
        fork.commit("Start orders-api")
        fork.write("app/models/order.py", MODEL)
        fork.write("app/api/v1/orders.py", ENDPOINTS)
        fork.write("tests/integration/api/test_orders.py", TEST)
        # This name was the sample's: here it is the service's own, and no merge may take it away.
        fork.write("app/business/items.py", OWN_ITEMS)
        public = "from app.api.v1.public import"
        fork.edit("app/api/v1/router.py", public, f"from app.api.v1 import orders\n{public}")
        fork.edit("app/api/v1/router.py", "    routes=[\n", "    routes=[\n        *orders.router.routes,\n")
        fork.edit("app/__init__.py", '"0.1.0"', '"1.4.0"')
        fork.edit("pyproject.toml", "service = [\n]", 'service = [\n    "jinja2>=3.1,<4",\n]')
        fork.write("README.md", f"{fork.read('README.md')}\nOrders are what it is about.\n")
        fork.prefix(LOCK, "# Compiled by the service.")
        fork.made("migrate", "m=orders")
        fork.commit("Orders")
        yield fork


@pytest.fixture(scope="module")
def upstream(service: Fork) -> Iterator[Fork]:
    """This tree with a change of the platform and a migration on top, and then with a change of the sample."""
    with scratch_folder() as folder:
        fork = Fork(folder / "upstream", "HEAD")
        version = fork.folder / "plinth/__init__.py"
        version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', version.read_text()))
        (newest,) = read_revisions(fork.folder / "migrations").heads(PLATFORM)
        revision = PLATFORM_REVISION.format(name=f"{PLATFORM}_9999", after=newest)
        fork.write(f"plinth/migrations/versions/{PLATFORM}_9999_upstream_change.py", revision)
        fork.edit("pyproject.toml", '    "ruff>=0.17",', '    "ruff>=0.17.0",')
        fork.commit("The platform changes")
        git(fork.folder, "tag", "v9.9.9")

        for file in ("app/models/item.py", "app/business/items.py", "README.md", "CHANGELOG.md", LOCK):
            fork.prefix(file, "# Changed by the platform.")
        fork.write("tests/e2e/test_new.py", '"""New."""\n')
        fork.commit("The sample changes")
        git(fork.folder, "tag", "v9.10.0")

        git(service.folder, "remote", "rename", "origin", "platform")
        git(service.folder, "remote", "set-url", "platform", str(fork.folder))
        git(service.folder, "fetch", "--quiet", "--tags", "platform")
        yield fork


def test_a_change_of_the_platform_merges_without_a_conflict(service: Fork, upstream: Fork) -> None:
    # As docs/upgrade.md says. The sample may have changed since the last release; a plain merge would stop there.
    service.made("merge", "FROM=v9.9.9")

    assert '__version__ = "9.9.9"' in service.read("plinth/__init__.py")
    assert '__version__ = "1.4.0"' in service.read("app/__init__.py")
    assert "*orders.router.routes" in service.read("app/api/v1/router.py")


def test_a_change_of_the_sample_does_not_come_back(service: Fork, upstream: Fork) -> None:
    done = service.made("merge", "FROM=v9.10.0")

    assert "git show v9.10.0:CHANGELOG.md" in done
    assert git(service.folder, "status", "--porcelain") == ""
    assert git(service.folder, "merge-base", "--is-ancestor", "v9.10.0", "HEAD") == ""
    assert not (service.folder / "app/models/item.py").exists()
    assert not (service.folder / "tests/e2e").exists()
    assert service.read("app/business/items.py") == OWN_ITEMS
    assert "Orders are what it is about." in service.read("README.md")
    assert service.read("CHANGELOG.md").startswith("# Changelog\n\n## Unreleased\n")
    # The locks are the platform's until `make lock` compiles them anew.
    assert service.read(LOCK).startswith("# Changed by the platform.")


def test_a_second_merge_finds_nothing(service: Fork, upstream: Fork) -> None:
    assert "v9.10.0 is part of this service already" in service.make("merge", "FROM=v9.10.0").stderr
    assert "There is no version v8" in service.make("merge", "FROM=v8").stderr


def test_both_branches_of_migrations_go_on(service: Fork, upstream: Fork) -> None:
    service.made("migrate")

    heads = alembic(service, "current")
    assert f"{PLATFORM}_9999 (head)" in heads
    assert re.search(r"^(?!plinth)\w+ \(head\)", heads, re.MULTILINE)


def test_its_tests_pass_after_the_merge(service: Fork, upstream: Fork) -> None:
    assert re.search(r"\d{2} passed", service.made("test-app"))


def test_two_newest_revisions_of_the_service_are_told_in_a_sentence(service: Fork, upstream: Fork) -> None:
    (first,) = (service.folder / "migrations/versions").glob("*.py")
    (name,) = re.findall(r'^revision = "(\w+)"', first.read_text(), re.MULTILINE)
    second = first.with_name("beside.py")
    second.write_text(first.read_text().replace(name, "0123456789ab"))
    try:
        done = service.make("migrate")
        assert done.returncode != 0
        merge = f"alembic merge -m merge {' '.join(sorted(['0123456789ab', name]))}"
        assert f"The service has 2 newest revisions. Merge them: {merge}" in done.stderr
    finally:
        second.unlink()


def alembic(fork: Fork, *arguments: str) -> str:
    plinth = [".venv/bin/python", "-m", "plinth.cli", "with-servers", "--", ".venv/bin/python", "-m", "alembic"]
    done = subprocess.run(
        [*plinth, *arguments],
        cwd=fork.folder,
        env=OWN | {"PYTHONPATH": str(fork.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
