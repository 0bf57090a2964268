"""The platform's revisions and the service's, side by side."""

import re
import shlex
from collections.abc import Iterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from plinth.database.migrator import MigrationError, wait_until_migrated
from plinth.database.revisions import FIRST, PLATFORM, VERSIONS, branch_of, read_revisions
from tests.support.shop import Shop

PLATFORM_HEAD = read_revisions(VERSIONS.parent / "none").heads(PLATFORM)[0]


async def rows(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    found = await connection.fetch("SELECT version_num FROM alembic_version")
    await connection.close()
    return {row["version_num"] for row in found}


async def put_rows(url: str, *revisions: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM alembic_version")
    await connection.executemany("INSERT INTO alembic_version VALUES ($1)", [(revision,) for revision in revisions])
    await connection.close()


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in found} - {"alembic_version"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def two(shop: Shop) -> Shop:
    """The service with two revisions, of which none is applied."""
    shop.revision("one", depends_on=FIRST)
    shop.revision("two", "one")
    return shop


class TestPlatform:
    def test_platform_revisions_have_one_head_and_the_branch_in_their_names(self) -> None:
        revisions = read_revisions(VERSIONS.parent / "none")
        assert {branch_of(revision) for revision in revisions.parents} == {PLATFORM}
        assert len(revisions.heads(PLATFORM)) == 1

    def test_services_depend_on_the_platform_s_first_revision_not_its_newest(self) -> None:
        """Alembic would keep one row for both."""
        assert FIRST in read_revisions(VERSIONS.parent / "none").parents
        assert FIRST != PLATFORM_HEAD

    async def test_service_without_revisions_gets_the_platform_s_tables(self, shop: Shop) -> None:
        await shop.migrator().upgrade()
        assert await rows(shop.url) == {PLATFORM_HEAD}
        assert "job" in await tables(shop.url)
        assert await shop.migrator().pending() == []


@pytest.mark.parametrize(
    "header",
    [
        'revision = "2026.1"\ndown_revision = None\ndepends_on = "plinth_0001"',
        'revision: str = "a"\ndown_revision: str | None = None  # not "b"\ndepends_on = ["plinth_0001"]',
        'revision = "a"\ndown_revision = None\ndepends_on = (\n    # functions\n    "plinth_0001",\n)',
    ],
)
async def test_a_header_is_read_however_it_is_written(shop: Shop, header: str) -> None:
    (shop.versions / "first.py").write_text(
        f"from alembic import op\n\n{header}\n\n\ndef upgrade() -> None:\n    op.execute('CREATE TABLE one ()')\n"
    )

    await shop.migrator().upgrade()

    assert "one" in await tables(shop.url)
    assert await shop.migrator().pending() == []


def test_a_header_that_is_not_written_out_is_told_with_its_file(shop: Shop) -> None:
    (shop.versions / "first.py").write_text('NAME = "first"\nrevision = NAME\n')

    with pytest.raises(ValueError, match=r"first\.py: revision, down_revision and depends_on must be written out$"):
        shop.migrator()


async def test_a_folder_that_is_not_there_is_told_in_a_sentence(two: Shop) -> None:
    (two.folder / "migrations").rename(two.folder / "elsewhere")

    with pytest.raises(MigrationError, match=r"There is no folder .*/migrations, which"):
        two.migrator()
    with pytest.raises(MigrationError, match=r"There is no folder .*/migrations, which"):
        await wait_until_migrated(two.settings(), timeout=0)


class TestUpgrade:
    async def test_upgrade_leaves_a_version_row_for_each_branch(self, two: Shop) -> None:
        with capture_logs() as entries:
            await two.migrator().upgrade()
        assert await rows(two.url) == {PLATFORM_HEAD, "two"}
        (applied,) = [entry["applied"] for entry in entries if entry["event"] == "migrated"]
        assert applied == list(read_revisions(two.folder / "migrations").parents)

    async def test_upgrade_to_a_service_revision_applies_all_platform_revisions(self, two: Shop) -> None:
        await two.migrator().upgrade("one")
        assert await rows(two.url) == {PLATFORM_HEAD, "one"}
        assert await two.migrator().pending() == ["two"]

    async def test_upgrade_to_a_platform_revision_applies_no_service_revision(self, two: Shop) -> None:
        await two.migrator().upgrade(f"{PLATFORM}@head")
        assert await rows(two.url) == {PLATFORM_HEAD}
        assert await two.migrator().pending() == ["one", "two"]

    async def test_a_service_may_depend_on_the_platform_s_newest_revision(self, shop: Shop) -> None:
        """Alembic then keeps one row for both."""
        shop.revision("one", depends_on=PLATFORM_HEAD)
        await shop.migrator().upgrade()
        assert await rows(shop.url) == {"one"}
        assert await shop.migrator().pending() == []
        await shop.migrator().upgrade()

    def test_plain_alembic_upgrades_both_branches(self, two: Shop) -> None:
        two.alembic("upgrade", "heads")
        assert set(two.alembic("current").splitlines()) == {f"{PLATFORM_HEAD} (head)", "two (head)"}
        two.alembic("downgrade", "base")


class TestDatabaseAhead:
    async def test_platform_is_upgraded_while_the_service_s_branch_is_ahead(self, two: Shop) -> None:
        await two.migrator().upgrade(FIRST)
        await put_rows(two.url, FIRST, "three")
        assert PLATFORM_HEAD in await two.migrator().pending()
        await two.migrator().upgrade()
        assert await rows(two.url) == {PLATFORM_HEAD, "three"}
        assert await two.migrator().pending() == []
        assert "one" not in await tables(two.url)

    async def test_service_is_upgraded_while_the_platform_s_branch_is_ahead(self, two: Shop) -> None:
        await two.migrator().upgrade("one")
        await put_rows(two.url, "plinth_9999", "one")
        assert await two.migrator().pending() == ["two"]
        await two.migrator().upgrade()
        assert await rows(two.url) == {"plinth_9999", "two"}

    async def test_first_service_revision_is_applied_while_the_platform_s_branch_is_ahead(self, two: Shop) -> None:
        await two.migrator().upgrade(f"{PLATFORM}@head")
        await put_rows(two.url, "plinth_9999")
        await two.migrator().upgrade()
        assert await rows(two.url) == {"plinth_9999", "two"}

    @pytest.mark.parametrize("ahead", [("plinth_9999", "three"), ("three",)], ids=["in both", "in both, in one row"])
    async def test_database_ahead_in_both_branches_is_left_alone(self, two: Shop, ahead: tuple[str, ...]) -> None:
        await two.migrator().upgrade()
        await put_rows(two.url, *ahead)
        with capture_logs() as entries:
            await two.migrator().upgrade()
        assert [entry["event"] for entry in entries] == ["the database is ahead of this code; nothing to do"]
        assert await two.migrator().pending() == []

    async def test_downgrade_refuses_revisions_that_this_code_does_not_know(self, two: Shop) -> None:
        await two.migrator().upgrade()
        await put_rows(two.url, PLATFORM_HEAD, "three")
        with pytest.raises(MigrationError, match="The database has three, which only later code can take back"):
            await two.migrator().downgrade("-1")


class TestDowngrade:
    async def test_downgrade_by_one_takes_back_one_service_revision(self, two: Shop) -> None:
        await two.migrator().upgrade()
        await two.migrator().downgrade("-1")
        assert await rows(two.url) == {PLATFORM_HEAD, "one"}

    async def test_downgrade_to_base_takes_back_all_service_revisions(self, two: Shop) -> None:
        await two.migrator().upgrade()
        await two.migrator().downgrade("base")
        assert await rows(two.url) == {PLATFORM_HEAD}
        assert not {"one", "two"} & await tables(two.url)
        with pytest.raises(MigrationError, match="No revision of the service is applied"):
            await two.migrator().downgrade("base")

    async def test_one_platform_revision_is_downgraded(self, two: Shop) -> None:
        await two.migrator().upgrade()
        await two.migrator().downgrade("plinth@-1")
        assert PLATFORM_HEAD not in await rows(two.url)
        assert "two" in await tables(two.url)
        await two.migrator().upgrade()
        assert await rows(two.url) == {PLATFORM_HEAD, "two"}

    async def test_downgrading_the_platform_to_base_also_downgrades_its_dependents(self, two: Shop) -> None:
        await two.migrator().upgrade()
        await two.migrator().downgrade("plinth@base")
        assert await rows(two.url) == set()
        assert await tables(two.url) == set()

    async def test_downgrade_by_more_revisions_than_there_are_is_refused(self, two: Shop) -> None:
        await two.migrator().upgrade()
        with pytest.raises(MigrationError, match=r"cannot begin: Relative revision -3 didn't produce 3 migrations\."):
            await two.migrator().downgrade("-3")


class TestSeveralHeads:
    def test_several_service_heads_are_reported_with_the_merge_command(self, two: Shop) -> None:
        two.revision("beside", "one")
        done = two.run("plinth.cli", "migrate")
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        command = re.fullmatch(r"The service has 2 newest revisions\. Merge them: (alembic merge .*)", line)
        assert command is not None, line
        two.alembic(*shlex.split(command[1])[1:])
        assert two.run("plinth.cli", "migrate").returncode == 0
        assert {"one", "two", "beside"} <= set(two.alembic("history").replace(",", " ").split())
        assert len(two.alembic("heads").splitlines()) == 2
        assert two.run("plinth.cli", "migrate", "--check").stdout == "up to date\n"

    @pytest.mark.parametrize("option", ["--check", "--down=-1"])
    def test_several_service_heads_stop_check_and_downgrade(self, two: Shop, option: str) -> None:
        two.revision("beside", "one")
        done = two.run("plinth.cli", "migrate", option)
        assert done.returncode == 1
        assert "alembic merge -m merge beside two" in done.stderr


class TestFailedMigration:
    @pytest.fixture
    def broken(self, two: Shop) -> Shop:
        two.revision("broken", "two", up="ALTER TABLE one ADD COLUMN id int")
        return two

    def test_failed_revision_is_reported_in_one_sentence(self, broken: Shop) -> None:
        done = broken.run("plinth.cli", "migrate", LOG_FORMAT="json")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "The revision broken (broken.py) failed and left nothing behind: "
            'column "id" of relation "one" already exists (42701).'
        )
        assert "DuplicateColumnError" not in done.stderr

    def test_failed_revision_prints_its_traceback_at_debug(self, broken: Shop) -> None:
        done = broken.run("plinth.cli", "migrate", LOG_LEVEL="DEBUG")
        assert "DuplicateColumnError" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("The revision broken (broken.py) failed")

    async def test_failed_revision_keeps_the_revisions_before_it(self, broken: Shop) -> None:
        with pytest.raises(MigrationError):
            await broken.migrator().upgrade()
        assert await rows(broken.url) == {PLATFORM_HEAD, "two"}

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("raise KeyError('x')", r"The revision code \(code\.py\) failed and left nothing behind: KeyError: 'x'\."),
            ("op.bogus()", r"The revision code \(code\.py\) failed .*: AttributeError: .*bogus'\."),
        ],
    )
    async def test_error_in_a_revision_s_python_code_is_reported(self, two: Shop, code: str, said: str) -> None:
        file = two.revision("code", "two")
        file.write_text(file.read_text().replace('op.execute("CREATE TABLE code (id int)")', code))
        with pytest.raises(MigrationError, match=said):
            await two.migrator().upgrade()

    async def test_lost_connection_in_a_revision_is_reported(self, two: Shop) -> None:
        two.revision("cut", "two", up="SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(MigrationError, match=r"The revision cut \(cut\.py\) failed and left nothing behind: .+\.$"):
            await two.migrator().upgrade()

    async def test_revision_that_cannot_be_imported_is_reported(self, two: Shop) -> None:
        file = two.revision("code", "two")
        file.write_text(file.read_text() + "\nimport nonsense_that_is_not_there\n")
        with pytest.raises(MigrationError, match=r"The migration cannot begin: ModuleNotFoundError: .*nonsense"):
            await two.migrator().upgrade()

    async def test_unknown_target_revision_is_reported(self, two: Shop) -> None:
        with pytest.raises(MigrationError, match="cannot begin: Can't locate revision identified by 'nonsense'"):
            await two.migrator().upgrade("nonsense")


async def test_waiting_ends_when_both_branches_are_migrated(two: Shop) -> None:
    await two.migrator().upgrade(f"{PLATFORM}@head")
    settings = two.settings()
    with pytest.raises(MigrationError, match="The database lacks the migrations one, two"):
        await wait_until_migrated(settings, timeout=0)
    await two.migrator().upgrade()
    await wait_until_migrated(settings, timeout=0)
    await put_rows(two.url, "plinth_9999", "one")
    with pytest.raises(MigrationError, match="The database lacks the migrations two"):
        await wait_until_migrated(settings, timeout=0)
