"""docs/ops.md, checked against the code. The pages of /ops and their tests hold the rest."""

from pathlib import Path

from plinth.ops.cookies import SealedCookie
from plinth.ops.sign_in import ATTEMPT_SECONDS
from plinth.settings import AuthProvider, PlatformSettings

PAGE = (Path(__file__).parents[2] / "docs" / "ops.md").read_text()


def test_numbers_and_names_are_those_of_the_code() -> None:
    settings = PlatformSettings.isolated()
    assert f"by default {settings.OPS_SESSION_HOURS:g}" in PAGE
    assert f"by default `{','.join(settings.OPS_SCOPES)}`" in PAGE
    assert f"after {ATTEMPT_SECONDS // 60} minutes" in PAGE
    assert f"`__Host-{SealedCookie(settings, 'ops-session').name}`" in PAGE


def test_table_of_sign_ins_has_every_provider() -> None:
    table = PAGE.partition("\n## Sign in\n")[2].partition("\n\nSupabase")[0]
    assert all(f"`{provider}`" in table for provider in AuthProvider)
