"""What is said of an exception that keeps code from starting."""

from pathlib import Path

import pytest

from plinth.cli.reload import _describe


def raised(code: str) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        exec(compile(code, str(Path.cwd() / "service.py"), "exec"), {})
    error: Exception = caught.value
    return error


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("\nno_such_name", "NameError: name 'no_such_name' is not defined"),
        ("from plinth.jobs import no_such_thing", "ImportError: cannot import name 'no_such_thing'"),
    ],
)
def test_names_out_of_the_code_are_told(code: str, said: str) -> None:
    assert _describe(raised(code)).startswith(said)


@pytest.mark.parametrize("code", ["raise ValueError('hunter2')", "{}['hunter2']", "int('hunter2')"])
def test_values_are_not(code: str) -> None:
    text = _describe(raised(code))

    assert "hunter2" not in text
    assert text.endswith(" (service.py, line 1)")


def test_a_syntax_error_is_placed_without_its_line() -> None:
    assert _describe(raised("\nSECRET = 'hunter2' +\n")) == "SyntaxError: invalid syntax (service.py, line 2)"
