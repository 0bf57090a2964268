"""A replica of the database, how far it is behind, and whether reads may use it now."""

from math import inf
from time import monotonic

import structlog

from plinth.database.engine import Database, DatabaseUnavailableError, one_connection
from plinth.settings import PlatformSettings
from plinth.telemetry.metrics import Labels, Observed

__all__ = ["Replica"]

log = structlog.get_logger("plinth.database.replica")

LOOK_SECONDS = 0.4  # less than the half second after which readiness gives a check up
# Looks in a row that fail: one slow answer is no outage, and a read that fails on the replica tells of itself.
FAILURES_BEFORE_UNFIT = 2
# After a read that failed on it, the replica is left alone for so long: a dead one must not slow every request down.
COOLDOWN_SECONDS = 5.0

# What has been received and not been replayed yet makes it lag, and a stream that is broken: after that nothing is
# received. An idle primary sends nothing, so the time of the last transaction alone would tell of a lag that is none.
_STATE = """
SELECT pg_is_in_recovery(),
    CASE
        WHEN pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
    END
"""

_LAG = Observed(
    "plinth_replica_lag_seconds",
    "How far the replica is behind the primary, when it was last asked. Absent while it does not answer.",
)


class Replica:
    """A standby. Its `database` has a pool of its own, whose sessions refuse to write.

    `look` is to be called every second or so, as readiness does with its checks.
    """

    def __init__(self, settings: PlatformSettings) -> None:
        """`settings` are those `of_replica`."""
        self.database = Database(settings, pool_name="replica", server_settings={"default_transaction_read_only": "on"})
        # A connection of its own: a busy pool is no lag.
        self._probe = one_connection(settings, LOOK_SECONDS)
        self._max_lag = settings.DB_REPLICA_MAX_LAG
        self._lag: float | None = None
        self._looked_at = 0.0
        self._fit = False
        self._failures = 0
        self._left_alone_until = 0.0
        _LAG.add(self._shown)

    @property
    def usable(self) -> bool:
        """Whether it answers, is not too far behind, and has not failed a read of late."""
        return self._fit and monotonic() >= self._left_alone_until

    async def look(self) -> None:
        """Ask how far it is behind. A readiness check.

        Raises:
            DatabaseUnavailableError: it cannot be used, with the reason.
        """
        try:
            async with self._probe.connection() as connection:
                row = await connection.fetchrow(_STATE)
        except BaseException:  # readiness cancels a look that takes too long
            self._failures += 1
            if self._failures >= FAILURES_BEFORE_UNFIT:
                self._fit, self._lag = False, None
            raise
        assert row is not None
        standby, lag = row
        self._failures = 0
        self._lag = self._bounded(lag) if standby else None
        self._looked_at = monotonic()
        self._fit = self._lag is not None and self._lag <= self._max_lag
        if not standby:
            # The name may lead to another one by now, while connections stay where they are.
            self._probe.leave()
            self.database.leave()
            reason = "The replica takes writes: it has been promoted, or DATABASE_REPLICA_URL is the primary's address"
            raise DatabaseUnavailableError(reason=reason)
        if self._lag is None:
            raise DatabaseUnavailableError(reason="The replica has replayed no transaction since it was started")
        if not self._fit:
            reason = f"The replica is {self._lag:.1f} s behind, and DB_REPLICA_MAX_LAG is {self._max_lag:g} s"
            raise DatabaseUnavailableError(reason=reason)

    def leave_alone(self, reason: str | None) -> None:
        """Use it no more for a while."""
        if self.usable:
            log.warning("reads go to the primary", reason=reason, seconds=COOLDOWN_SECONDS)
        self._left_alone_until = monotonic() + COOLDOWN_SECONDS

    async def aclose(self) -> None:
        _LAG.remove(self._shown)
        await self._probe.aclose()
        await self.database.aclose()

    def _bounded(self, lag: float | None) -> float | None:
        """The lag, which grows no faster than the clock; None if that cannot be told.

        After an idle hour the first transaction, while it has been received and not been replayed, would make it one of
        an hour; and before any has been replayed there is none to go by.
        """
        most = inf if self._lag is None else self._lag + monotonic() - self._looked_at
        found = min(inf if lag is None else max(0.0, lag), most)  # the clocks of the two may differ
        return None if found == inf else found

    def _shown(self) -> list[tuple[Labels, float]]:
        return [] if self._lag is None else [((), self._lag)]
