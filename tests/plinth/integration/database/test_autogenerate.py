"""What `alembic revision --autogenerate` writes for a service."""

import os
import re
import shutil
import subprocess
import sys

import asyncpg
import pytest

from plinth.database.revisions import FIRST
from tests.support.notes import ROOT
from tests.support.shop import Shop

# One of each: a relation, a date, an amount, an enum, a list, a document, a condition, a rule and a default.
TABLES = """
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from plinth.database.tables import UtcDateTime
from plinth.database.uuid7 import uuid7
from sqlalchemy import JSON, CheckConstraint, Index, Numeric, String, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

metadata = SQLModel.metadata


class State(Enum):
    OPEN = "open"
    PAID = "paid"


class Customer(SQLModel, table=True):
    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    name: str = Field(max_length=200, unique=True, index=True)
    created_at: datetime = Field(default=None, sa_type=UtcDateTime, sa_column_kwargs={"server_default": func.now()})


class Job(SQLModel, table=True):
    __tablename__ = "invoice"
    __table_args__ = (
        Index("ix_invoice_customer_id_due_on", "customer_id", "due_on", postgresql_where=text("state <> 'PAID'")),
        CheckConstraint("amount >= 0", name="amount_not_negative"),
    )

    id: UUID = Field(default=None, primary_key=True, sa_column_kwargs={"server_default": uuid7()})
    customer_id: UUID = Field(foreign_key="customer.id", ondelete="CASCADE")
    due_on: date
    amount: Decimal = Field(sa_type=Numeric(12, 2))
    state: State = Field(default=State.OPEN, sa_column_kwargs={"server_default": "OPEN"})
    tags: list[str] = Field(sa_type=ARRAY(String(50)), sa_column_kwargs={"server_default": "{}"})
    extra: dict[str, Any] = Field(sa_type=JSONB, sa_column_kwargs={"server_default": "{}"})
    job_id: UUID | None = None
    note: str | None = None
"""


@pytest.fixture
async def shop(shop: Shop) -> Shop:
    shutil.copy(ROOT / "pyproject.toml", shop.folder)  # ruff as it is set up here
    await shop.migrator().upgrade()
    shop.tables(TABLES)
    shop.versions.rmdir()  # git keeps no empty folder
    return shop


def lint(shop: Shop) -> None:
    for command in (("check",), ("format", "--check")):
        done = shop.run("ruff", *command, "migrations/versions")
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_revision_holds_the_service_s_tables_only_and_passes_lint(shop: Shop) -> None:
    shop.alembic("revision", "--autogenerate", "-m", "customers and invoices")
    (first,) = shop.versions.glob("*.py")
    text = first.read_text()
    assert re.findall(r'op\.create_table\(\s*"(\w+)"', text) == ["customer", "invoice"]
    assert f'depends_on = "{FIRST}"' in text
    assert "down_revision = None" in text

    # The next one follows on it, and has nothing to do: neither the service's tables nor the platform's differ.
    shop.alembic("upgrade", "heads")
    shop.alembic("revision", "--autogenerate", "-m", "nothing")
    (second,) = set(shop.versions.glob("*.py")) - {first}
    assert re.findall(r"\bop\.\w+", second.read_text()) == []
    (revision,) = re.findall(r'^revision = "(\w+)"', text, re.MULTILINE)
    assert f'down_revision = "{revision}"' in second.read_text()
    lint(shop)


def test_a_table_of_the_service_cannot_have_the_name_of_one_of_the_platform_s(shop: Shop) -> None:
    shop.tables(TABLES.replace('"invoice"', '"job"'))
    done = shop.run("alembic", "revision", "--autogenerate", "-m", "jobs")
    assert "The platform has a table job of its own: give the service's another name." in done.stdout + done.stderr
    assert list(shop.versions.glob("*.py")) == []


async def test_several_heads_of_the_service_are_reported_with_the_merge_command(shop: Shop) -> None:
    shop.versions.mkdir()
    shop.revision("one", depends_on=FIRST)
    shop.alembic("upgrade", "heads")
    connection = await asyncpg.connect(shop.url)
    await connection.execute("INSERT INTO alembic_version VALUES ('two')")
    await connection.close()
    shop.revision("two", depends_on=FIRST)
    done = shop.run("alembic", "revision", "--autogenerate", "-m", "more")
    assert "Merge them: alembic merge -m merge one two" in done.stdout + done.stderr


def test_the_platform_s_next_revision_sees_the_platform_s_tables_only(shop: Shop) -> None:
    """As its developers write one; here in a copy of the platform."""
    shutil.copytree(ROOT / "plinth", shop.folder / "plinth", ignore=shutil.ignore_patterns("*.pyc.*"))
    tables = shop.folder / "plinth" / "http" / "idempotency.py"
    tables.write_text(tables.read_text().replace("    status: int\n", "    status: int\n    hits: int\n"))
    versions = shop.folder / "plinth" / "migrations" / "versions"
    before = set(versions.glob("*.py"))
    # Not forked of a process that has imported this tree's.
    command = [sys.executable, "-m", "alembic", "revision", "--autogenerate", "--head", "plinth@head", "-m", "hits"]
    subprocess.run(command, cwd=shop.folder, env={**os.environ, "DATABASE_URL": shop.url}, check=True)
    (written,) = set(versions.glob("*.py")) - before
    assert re.findall(r'^revision = "plinth_\d{4}"', written.read_text(), re.MULTILINE) != []
    assert re.findall(r"\bop\.\w+", written.read_text()) == ["op.add_column", "op.drop_column"]
    assert list(shop.folder.glob("migrations/versions/*.py")) == []


def test_alembic_check_finds_what_the_service_s_revisions_lack(shop: Shop) -> None:
    said = shop.run("alembic", "check").stdout
    assert "New upgrade operations detected" in said
    assert "customer" in said
    assert "idempotency_record" not in said
