"""docs/jobs/encryption.md: its example, its codec, and the steps by which the key is rotated."""

import inspect
import re
import secrets
from itertools import pairwise
from string import Template
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.core.config import Settings
from plinth.database.engine import Database
from plinth.jobs import PayloadCodec, State, aes_gcm
from plinth.testing import Jobs
from tests.support.pages import blocks

PAGE = "docs/jobs/encryption.md"


async def test_example_stores_cipher_text_and_runs(
    settings: Settings, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plinth.jobs.kinds._kinds", {})
    (code,) = blocks(PAGE, "## Encrypt a kind of job", "python")
    page: dict[str, Any] = {"__name__": "payouts"}
    exec(code, page)
    settings = settings.model_copy(update={"JOBS_ENCRYPTION_KEY": SecretStr(secrets.token_hex(32))})
    database = Database(settings)
    payload = page["Payout"](account_id=uuid4(), iban="DE89370400440532013000")
    jobs = Jobs(database, settings, registered={"payouts.pay": page["payout"]})
    done = await jobs.perform(page["payout"], payload)
    await database.aclose()
    assert done.state is State.SUCCEEDED
    stored = await sql.fetchrow(
        "SELECT job_history.payload::text, job_step.result::text FROM job_history, job_step "
        "WHERE job_history.id = $1 AND job_step.job_id = $1",
        done.id,
    )
    assert all(re.fullmatch(r'\{"encrypted": "[A-Za-z0-9+/=]+"\}', text) for text in stored)


def test_protocol_is_the_one_that_the_page_shows() -> None:
    (code,) = blocks(PAGE, "## A codec of your own", "python")
    for name in ("encode", "decode"):
        signature = str(inspect.signature(getattr(PayloadCodec, name)))
        assert f"def {name}{signature}:" in code


def test_keys_are_rotated_by_the_steps_of_the_page_and_each_reads_the_one_before() -> None:
    (block,) = blocks(PAGE, "## Rotate the key", "sh")
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    steps = [old, *(Template(value).substitute(OLD=old, NEW=new) for value in re.findall(r"KEY=(\S+)", block))]
    codecs = [aes_gcm(Settings.isolated(JOBS_ENCRYPTION_KEY=SecretStr(step))) for step in steps]
    assert len(codecs) == 4
    for number, (before, after) in enumerate(pairwise(codecs)):
        assert before.decode(after.encode(b"x", b"a"), b"a") == b"x"
        if number < 2:  # the last step is for when nothing of the old key is left
            assert after.decode(before.encode(b"x", b"a"), b"a") == b"x"
