"""Every error of Redis has a sentence, and says whether another server should be asked."""

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from plinth.redis.errors import is_wrong_server, redis_reason, refuses_to_serve


def answered(text: str) -> Exception:
    """What redis-py raises for an error that the server sends."""
    error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    return error


WRITES = "Redis refuses writes: "
PROTECTED = "Redis refuses other machines: it runs in protected mode"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("READONLY You can't write against a read only replica.", "Redis is a read-only replica"),
        (
            "ERR Error running script (call to f_1): @user_script:2: -READONLY You can't write against a replica.",
            "Redis is a read-only replica",
        ),
        ("MASTERDOWN Link with MASTER is down", "Redis is a replica without its primary"),
        ("LOADING Redis is loading the dataset in memory", "Redis is still reading its data"),
        ("NOREPLICAS Not enough good replicas to write.", f"{WRITES}it has too few replicas"),
        (
            "CLUSTERDOWN Hash slot not served",
            "Redis is a node of a cluster that is down: Redis Cluster is not supported",
        ),
        *(
            (
                sent,
                "Redis is a node of a cluster, which has other nodes for other keys: Redis Cluster is not supported",
            )
            for sent in ("MOVED 866 10.0.0.7:6379", "ASK 866 10.0.0.7:6379", "TRYAGAIN Multiple keys request")
        ),
    ],
)
def test_error_of_the_wrong_server_is_told_and_another_is_asked(sent: str, reason: str) -> None:
    error = answered(sent)
    assert redis_reason(error) == reason
    assert is_wrong_server(error)
    assert refuses_to_serve(error)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", f"{WRITES}its memory is full (maxmemory)"),
        (
            "ERR Error running script (call to f_1): @user_script:2: @user_script: 2: -OOM command not allowed.",
            f"{WRITES}its memory is full (maxmemory)",
        ),
        ("MISCONF Redis is configured to save RDB snapshots", f"{WRITES}it cannot save them to its disk"),
    ],
)
def test_error_of_a_server_that_cannot_write_is_told(sent: str, reason: str) -> None:
    error = answered(sent)
    assert (redis_reason(error), is_wrong_server(error), refuses_to_serve(error)) == (reason, False, True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (answered("NOAUTH Authentication required."), "Redis asks for a password"),
        (answered("WRONGPASS invalid username-password pair"), "Redis refuses the user name or the password"),
        (answered("ERR invalid password"), "Redis refuses the user name or the password"),
        (
            answered("NOPERM this user has no permissions to run the 'evalsha' command"),
            "Redis does not permit its user the commands or the keys of this service (ACL)",
        ),
        (answered("ERR max number of clients reached"), "Redis has no connection left (maxclients)"),
        (answered("ERR DB index is out of range"), "Redis has no database of this number"),
        (answered("DENIED Redis is running in protected mode"), PROTECTED),
        (exceptions.TimeoutError("Timeout reading from x"), "Redis does not answer: there was no answer in time"),
        (exceptions.ConnectionError("Connection closed by server."), "Redis does not answer: it closed the connection"),
        (exceptions.InvalidResponse("Protocol Error: b'HTTP'"), "Redis does not answer as it should (InvalidResponse)"),
        (answered("ERR no integer: OOM READONLY s3cret"), "Redis does not answer as it should (ResponseError)"),
    ],
)  # fmt: skip
def test_other_error_has_a_sentence_without_what_it_quotes(error: Exception, reason: str) -> None:
    assert redis_reason(error) == reason
    assert not is_wrong_server(error)
    assert not refuses_to_serve(error)
