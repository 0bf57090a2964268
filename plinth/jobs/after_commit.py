"""Calls functions once a session's transaction has committed."""

from collections.abc import Callable

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession

__all__ = ["after_commit"]

_CALLS = "jobs.after_commit"  # in a session's info: functions, with the transaction or savepoint that each belongs to


def after_commit(session: AsyncSession, call: Callable[[], object]) -> None:
    """Call a function once the transaction has committed; not if it, or the current savepoint, is rolled back."""
    sync = session.sync_session
    transaction = sync.get_nested_transaction() or sync.get_transaction()
    sync.info.setdefault(_CALLS, []).append((transaction, call))


# On all sessions: a listener on each session would cost a tenth of an enqueue.
@event.listens_for(Session, "after_commit")
def _call(session: Session) -> None:
    # Also called when a savepoint is released, before anything is committed.
    if _CALLS in session.info and not session.in_nested_transaction():
        committed = session.get_transaction()
        for transaction, call in session.info.pop(_CALLS):
            # Otherwise it belongs to a transaction that was closed without an event.
            if _is_within(transaction, committed):
                call()


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, previous: SessionTransaction) -> None:
    if _CALLS in session.info:
        calls = session.info[_CALLS]
        calls[:] = [call for call in calls if not _is_within(call[0], previous)]


def _is_within(inner: SessionTransaction | None, outer: SessionTransaction | None) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer
