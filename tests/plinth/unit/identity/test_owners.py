"""The name of a caller as an owner: one for each issuer and subject."""

import pytest

from plinth.errors import ServiceUnavailableError
from plinth.identity.principal import Principal


def owner(subject: str, issuer: str) -> str:
    return Principal(subject, issuer, frozenset(), frozenset(), 0).owner


def test_owner_names_subject_and_issuer() -> None:
    assert owner("alice", "https://id.example.com/") == "alice\thttps://id.example.com/"


def test_no_subject_is_the_owner_of_another_issuer() -> None:
    # A token's subject is printable: see `plinth.identity.rules.is_subject`.
    assert not owner("alice", "https://id.example.com").isprintable()
    assert not owner("a" * 255, "https://id.example.com").isprintable()


@pytest.mark.parametrize("subject", ["a" * 255, "é" * 255, "🎉" * 240])
def test_owner_fits_its_column(subject: str) -> None:
    names = {owner(subject, issuer) for issuer in ("https://a.example.com", "https://b.example.com")}
    names |= {owner(subject[:-1] + "x", "https://a.example.com")}
    assert len(names) == 3
    assert max(map(len, names)) <= 255


def test_caller_of_the_first_issuer_is_its_subject() -> None:
    assert Principal("alice", "here", frozenset(), frozenset(), 0, first=True).owner == "alice"


def test_caller_has_no_owner_while_its_issuer_is_unknown() -> None:
    caller = Principal("alice", "here", frozenset(), frozenset(), 0, first=None)
    assert caller.key == "alice\there"
    with pytest.raises(ServiceUnavailableError):
        caller.owner  # noqa: B018
