"""docs/security.md, checked against the code."""

import re
from pathlib import Path

from plinth.identity.errors import Reason
from plinth.identity.jwks import COOLDOWN, RENEW_AFTER, TTL
from plinth.identity.rules import LEEWAY
from plinth.identity.verifier import MAX_TOKEN_LENGTH

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
TOKENS = PAGE.partition("\n## Bearer tokens\n")[2].partition("\n## ")[0]


def test_every_reason_for_which_a_token_is_refused_is_in_the_table() -> None:
    first_cells = re.findall(r"^\| (`.*?) \|", TOKENS, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted(Reason)


def test_the_numbers_about_tokens_are_those_of_the_code() -> None:
    assert f"{MAX_TOKEN_LENGTH:,} characters" in TOKENS
    assert f"by {LEEWAY} s or more" in TOKENS
    assert (RENEW_AFTER, TTL, COOLDOWN) == (240, 300, 2)
    assert "every four to five minutes" in TOKENS
    assert "every two seconds" in TOKENS
