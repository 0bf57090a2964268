"""The description of an exception that prevents a reload."""

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
def test_error_of_a_wrong_name_in_the_code_is_shown_with_the_name(code: str, said: str) -> None:
    assert _describe(raised(code)).startswith(said)


@pytest.mark.parametrize("code", ["raise ValueError('hunter2')", "{}['hunter2']", "int('hunter2')"])
def test_error_of_a_value_is_shown_without_the_value(code: str) -> None:
    text = _describe(raised(code))

    assert "hunter2" not in text
    assert text.endswith(" (service.py, line 1)")


def test_syntax_error_is_shown_with_its_line_number_but_not_its_text() -> None:
    assert _describe(raised("\nSECRET = 'hunter2' +\n")) == "SyntaxError: invalid syntax (service.py, line 2)"
