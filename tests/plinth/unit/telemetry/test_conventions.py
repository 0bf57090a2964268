"""The names of attributes and labels are those of OpenTelemetry's published registry."""

import ast
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from opentelemetry import semconv
from opentelemetry.semconv import _incubating

from plinth.database.observed_connection import describe

ROOT = Path(__file__).parents[4]
NAMESPACES = "client|db|error|exception|http|messaging|network|server|service|url|user_agent"
ATTRIBUTE = re.compile(rf"(?:{NAMESPACES})(?:\.[a-z0-9_]+)+")
# The registry has no stable ones for queues yet.
DEVELOPMENT = "messaging."


def registry(package: str) -> set[str]:
    """The names of all attributes of a published set, stable or in development."""
    folder = import_module(package)
    modules = [import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    return {value for module in modules for value in vars(module).values() if isinstance(value, str) and "." in value}


STABLE = registry(f"{semconv.__name__}.attributes")
ALL = STABLE | registry(f"{_incubating.__name__}.attributes")


def used() -> Iterator[str]:
    """Every text of the platform's code that names an attribute."""
    for path in (ROOT / "plinth").rglob("*.py"):
        if "settings" in path.parts or path.name == "log_profiles.py":  # of other vendors
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and ATTRIBUTE.fullmatch(node.value):
                yield node.value


# What has the form of an attribute and is none: kinds of ASGI messages, a template of `plinth/ops`.
OTHERS = {"http.request", "http.response.start", "http.response.body", "http.disconnect", "error.html"}


def test_attributes_are_the_registrys_and_stable() -> None:
    found = set(used()) - OTHERS
    assert {"http.request.method_original", "db.collection.name", "db.response.status_code"} <= found
    assert found <= ALL
    assert {name for name in found - STABLE if not name.startswith(DEVELOPMENT)} == set()


def test_labels_are_the_registrys() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    labels = set(
        re.findall(r"`((?:http|db)_\w+)`", "".join(re.findall(r"^\| `\w+` \| \w+ \| (.*?) \|", page, re.MULTILINE)))
    )
    assert len(labels) == 7
    assert labels <= {name.replace(".", "_") for name in ALL}


@pytest.mark.parametrize(
    ("statement", "collection"),
    [
        ("SELECT * FROM item WHERE id = $1", "item"),
        ('SELECT "a" FROM "item"', "item"),
        ("SELECT a.x FROM item a JOIN item b ON a.id = b.id", "item"),
        ("SELECT * FROM item JOIN owner ON true", None),
        ("SELECT * FROM item WHERE id IN (SELECT item FROM export)", None),
        ("INSERT INTO item SELECT * FROM other", "item"),
        ("UPDATE job SET state = 1 FROM worker", "job"),
        ("DELETE FROM public.job", "public.job"),
        ("SELECT * FROM generate_series(1, 2)", None),
        ("SELECT 1", None),
        ("BEGIN;", None),
    ],
)
def test_collection_is_the_table_that_a_statement_is_about(statement: str, collection: str | None) -> None:
    assert describe(statement).collection == collection


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("ALTER ROLE app PASSWORD 'it''s hunter2'", "ALTER ROLE app PASSWORD ?"),
        ("SELECT E'it\\'s hunter2', b.x1 FROM b LIMIT 10", "SELECT ?, b.x1 FROM b LIMIT ?"),
        ("SELECT $$hunter2 ' $$, $a$hunter2 $$ $a$, 1.5e3", "SELECT ?, ?, ?"),
        ("SELECT \"it's\" FROM a WHERE b = 'hunter2'", 'SELECT "it\'s" FROM a WHERE b = ?'),
        ("SELECT 1 -- it's\nWHERE a = 'hunter2' /* it's */", "SELECT ? -- it's\nWHERE a = ? /* it's */"),
        ("SELECT '$1', 'cut off", "SELECT ?, ?"),
        ("INSERT INTO job_queue VALUES (U&'hunter2'), (x'ff')", "INSERT INTO job_queue VALUES (?), (?)"),
        ("SELECT a FROM b WHERE state = 'ready' AND c = $1", "SELECT a FROM b WHERE state = 'ready' AND c = $1"),
        ("SAVEPOINT sa_savepoint_1", "SAVEPOINT sa_savepoint_1"),
    ],
)
def test_statement_without_parameters_has_no_literals(statement: str, text: str) -> None:
    """As the conventions ask: of a statement with parameters the literals are the code's own."""
    assert describe(statement).text == text
