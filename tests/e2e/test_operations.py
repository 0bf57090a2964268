"""The shell lines of k8s/operations/README.md, as they stand there. The tests follow on one another."""

import re

import pytest

from plinth.jobs.engine.sql import HISTORY_COLUMNS
from tests.e2e.cluster import ROOT, image
from tests.e2e.release import Release, caller, until
from tests.e2e.shell import Shell

README = (ROOT / "k8s/operations/README.md").read_text()
# Its paragraphs, in its order. One more, and this line says that it is not tried.
IMAGE, MIGRATE, REPLAY, PSQL, BACKUP, RESTORE = [
    f"{paragraph}\n" for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for paragraph in block.split("\n\n")
]

# As if the job had failed for good. Its columns stand in the same order in both tables.
DISCARD = f"""WITH failed AS (DELETE FROM job WHERE kind = 'exports.build' RETURNING *)
    INSERT INTO job_history ({HISTORY_COLUMNS})
    SELECT {HISTORY_COLUMNS.removesuffix(", state, finished_at")}, 'discarded', now() FROM failed"""
ITEMS = "SELECT string_agg(name, ' ') FROM item"
NEXT_COLUMN = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'item' AND column_name = 'e2e_note'"


@pytest.fixture(scope="module")
def shell(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(release, tmp_path_factory.mktemp("shell"))


def test_psql(release: Release, shell: Shell) -> None:
    answer = shell.run(PSQL, typed="SELECT 'plinth has ' || count(*) || ' tables named item' FROM pg_class"
                                   " WHERE relname = 'item';")  # fmt: skip
    assert "plinth has 1 tables named item" in answer
    assert not release.pods("operator")


def test_dead_letters_are_done_again(release: Release, shell: Shell) -> None:
    """An export whose job was given up, while no worker could claim it, is made after all."""
    (token,) = release.tokens("alice")
    operator = release.pods("api")[0].metadata.name
    with caller(token) as http:
        release.execute(operator, "plinth", "jobs", "pause", "default")
        export = http.post("exports", json={"format": "ndjson"}).raise_for_status().json()
        assert release.sql(DISCARD) == "INSERT 0 1"
        release.execute(operator, "plinth", "jobs", "resume", "default")
        path = f"exports/{export['id']}"
        assert http.get(path).json()["status"] == "failed"
        assert "1 dead letter will be done again" in shell.run(IMAGE + REPLAY)
        until(lambda: http.get(path).json()["status"] == "ready", "the export is ready", within=30)


def test_a_backup_is_taken_while_the_service_runs(release: Release, shell: Shell) -> None:
    (token,) = release.tokens("alice")
    with caller(token) as http:
        http.post("items", json={"name": "before"}).raise_for_status()
    assert re.search(r"/backup/plinth-\d{8}T\d{6}Z\.dump\n", shell.run(BACKUP))


def test_a_migration_by_hand(release: Release, shell: Shell) -> None:
    """To the next image's revision; then again by the release's own, which does not know it."""
    shell.run(f"IMAGE={image('2')}\n{MIGRATE}")
    assert release.sql(NEXT_COLUMN) == "1"
    shell.run(IMAGE + MIGRATE)
    assert release.sql(NEXT_COLUMN) == "1"


def test_a_restore_brings_back_what_there_was(release: Release, shell: Shell) -> None:
    """Of the data and of the schema, whatever has been written, deleted and migrated since."""
    (token,) = release.tokens("alice")
    with caller(token) as http:
        http.post("items", json={"name": "after"}).raise_for_status()
        release.sql("DELETE FROM item WHERE name = 'before'")
        assert release.sql(ITEMS) == "after"
        assert "restored /backup/plinth-" in shell.run(RESTORE)
        assert release.sql(ITEMS) == "before"
        assert release.sql(NEXT_COLUMN) == "0"
        release.wait_until_ready()
        (item,) = http.get("items").raise_for_status().json()["items"]
        assert item["name"] == "before"
        path = f"exports/{http.post('exports', json={'format': 'csv'}).raise_for_status().json()['id']}"
        until(lambda: http.get(path).json()["status"] == "ready", "an export is ready", within=30)
