"""Codecs of payloads, and the encryption that comes along."""

import json
import secrets
from itertools import pairwise
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr

from notes.config import Settings
from plinth import cli
from plinth.api import process
from plinth.api.process import make_application
from plinth.jobs import JobContext, aes_gcm, job
from plinth.jobs import kinds as kinds_module
from plinth.jobs.codec import PayloadCodec, decode, encode, encoded_rows
from plinth.jobs.enqueue import Row
from plinth.jobs.kinds import check_codecs
from plinth.settings import PlatformSettings, SettingsError

OLD, NEW = secrets.token_hex(32), secrets.token_hex(32)


class Payload(BaseModel):
    n: int = 0


@pytest.fixture(autouse=True)
def _no_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds_module, "_kinds", {})


def codec(*keys: str) -> PayloadCodec:
    return aes_gcm(PlatformSettings.isolated(JOBS_ENCRYPTION_KEY=SecretStr(",".join(keys))))


class TestAesGcm:
    @pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 100_000])
    def test_what_is_encrypted_is_decrypted_and_does_not_show(self, data: bytes) -> None:
        stored = codec(NEW).encode(data, b"a")
        assert codec(NEW).decode(stored, b"a") == data
        assert not data or data not in stored

    def test_same_payload_is_never_stored_the_same(self) -> None:
        made = codec(NEW)
        assert len({made.encode(b"same", b"a") for _ in range(100)}) == 100

    def test_what_was_encrypted_for_one_kind_is_not_read_for_another(self) -> None:
        stored = codec(NEW).encode(b"{}", b"mail.welcome")
        with pytest.raises(ValueError, match="for something else"):
            codec(NEW).decode(stored, b"mail.goodbye")

    def test_changed_or_cut_text_is_refused_at_each_byte(self) -> None:
        made = codec(NEW)
        stored = made.encode(b'{"n": 1}', b"a")
        for place in range(len(stored)):
            changed = bytearray(stored)
            changed[place] ^= 1
            for wrong in (bytes(changed), stored[:place]):
                with pytest.raises(ValueError, match=r"^it was (encrypted with a key|changed)"):
                    made.decode(wrong, b"a")

    def test_keys_rotate_in_three_steps(self) -> None:
        """The first one encrypts, all of them decrypt."""
        steps = [codec(OLD), codec(OLD, NEW), codec(NEW, OLD), codec(NEW)]
        for before, after in pairwise(steps):
            stored = before.encode(b"x", b"a"), after.encode(b"x", b"a")
            if (before, after) != (steps[2], steps[3]):
                assert after.decode(stored[0], b"a") == b"x"
            assert before.decode(stored[1], b"a") == b"x"
        with pytest.raises(ValueError, match="a key that is not here"):
            codec(NEW).decode(codec(OLD).encode(b"x", b"a"), b"a")


class TestStored:
    def test_object_with_one_field_is_stored(self) -> None:
        stored = encode(codec(NEW), '{"n":1}', "a")
        assert stored.startswith('{"encrypted":"')
        assert decode(codec(NEW), stored, "a") == '{"n":1}'

    @pytest.mark.parametrize("text", ["{}", '{"n":1}', '{"encrypted":1}', '{"encrypted":"x","n":1}', "[]", '"x"'])
    def test_what_was_stored_as_it_is_is_read_as_it_is(self, text: str) -> None:
        assert decode(codec(NEW), text, "a") == text

    @pytest.mark.parametrize("text", ['{"encrypted":"x"}', '{"encrypted":"ä"}', '{"encrypted":""}'])
    def test_what_is_no_cipher_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"^(it was|Only base64|string argument|Invalid base64|Incorrect padding)"):
            decode(codec(NEW), text, "a")

    def test_session_of_another_library_is_refused_with_a_sentence(self) -> None:
        with pytest.raises(RuntimeError, match=r"a session of a plinth\.database\.engine\.Database"):
            encoded_rows([Row(uuid4(), "{}", None)], aes_gcm, "a", {})


class TestStart:
    @pytest.fixture(autouse=True)
    def _kind_that_is_encrypted(self) -> None:
        for name in ("a", "b"):

            @job(name, codec=aes_gcm)
            async def kind(ctx: JobContext, payload: Payload) -> None: ...

    def test_missing_key_is_named_once_with_the_kinds_that_need_it(self) -> None:
        with pytest.raises(SettingsError) as refused:
            check_codecs(PlatformSettings.isolated())
        (problem,) = refused.value.problems
        assert problem.startswith("JOBS_ENCRYPTION_KEY (not set): expected a secret")
        assert problem.endswith("(jobs of the kind a, b)")
        check_codecs(PlatformSettings.isolated(JOBS_ENCRYPTION_KEY=SecretStr(NEW)))

    def test_api_without_the_key_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "configure_logging", lambda *_: None)  # it is for the whole process
        with pytest.raises(SystemExit, match="JOBS_ENCRYPTION_KEY"):
            make_application(lambda settings: FastAPI(), Settings.isolated)
        with pytest.raises(SystemExit) as ended:
            make_application(lambda settings: FastAPI(), lambda: Settings.isolated(LOG_FORMAT="json"))
        assert "JOBS_ENCRYPTION_KEY" in json.loads(str(ended.value.code))["problems"][0]

    def test_worker_without_the_key_does_not_start(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(cli, "register_jobs", lambda: None)
        with pytest.raises(SystemExit) as ended:
            cli._work(Settings.isolated(), queues=None, concurrency=None, host="127.0.0.1")
        assert ended.value.code == 2
        assert "JOBS_ENCRYPTION_KEY (not set)" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            cli._work(Settings.isolated(LOG_FORMAT="json"), queues=None, concurrency=None, host="127.0.0.1")
        assert "JOBS_ENCRYPTION_KEY" in json.loads(capsys.readouterr().err)["problems"][0]
