"""When a session ends: the arithmetic of idle and absolute timeouts."""

from __future__ import annotations

import datetime as dt
import math
from typing import NamedTuple

from pyramid_sqlasession.durations import duration
from pyramid_sqlasession.settings import Settings

#: ``lifetime`` of a session whose end is fixed.
FIXED = 0

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Lifetime(NamedTuple):
    """What ``set_expiry`` asked for."""

    #: Seconds from each use; None = by the settings; FIXED = see ``at``.
    seconds: int | None
    #: The end, if it is fixed (aware UTC).
    at: dt.datetime | None = None


BY_SETTINGS = Lifetime(None)

# "Never".  A moment later than this is beyond the calendar of Python in some
# time zone, and drivers read moments in the time zone of the connection.
_LATEST = dt.datetime(9999, 12, 30, tzinfo=dt.UTC)


def lifetime_of(
    value: dt.timedelta | dt.datetime | float | None, now: dt.datetime
) -> Lifetime:
    """Return what the argument of ``set_expiry`` means.

    :raises TypeError: for another type, infinity and NaN.
    :raises ValueError: if the session would end at once.
    """
    if value is None:
        return BY_SETTINGS
    if isinstance(value, dt.datetime):
        return Lifetime(FIXED, min(_end_at(value, now), _LATEST))
    return Lifetime(math.ceil(_idle_for(value)))


def _end_at(value: dt.datetime, now: dt.datetime) -> dt.datetime:
    if value.tzinfo is None:
        raise ValueError(
            f'set_expiry: {value!r} has no time zone; give an aware '
            f'datetime, such as datetime.now(UTC) + timedelta(hours=1)'
        )
    try:
        at = value.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(
            f'set_expiry: {value} is beyond the calendar in UTC'
        ) from None
    if at <= now:
        raise ValueError(
            f'set_expiry: {value} is in the past; call invalidate() to end a '
            f'session'
        )
    return at


def _idle_for(value: dt.timedelta | float) -> float:
    # No text such as '1h': that is the language of the ini file.
    given: object = value
    try:
        seconds = duration(None if isinstance(given, str) else value)
    except ValueError:
        raise TypeError(
            f'set_expiry takes a timedelta, seconds, an aware datetime or '
            f'None, not {value!r}'
        ) from None
    if seconds <= 0:
        raise ValueError(
            f'set_expiry: {value!r} is not a positive time; call invalidate() '
            f'to end a session'
        )
    if seconds > 2**31 - 1:
        raise ValueError(
            f'set_expiry: {value!r} is more than 2147483647 seconds (68 '
            f'years); give less, or a datetime'
        )
    return seconds


_NO_WINDOW = (dt.datetime.max.replace(tzinfo=dt.UTC),) * 2


class Expiry:
    """The timeouts of one application."""

    def __init__(self, settings: Settings) -> None:
        self._idle = dt.timedelta(seconds=settings.expiration)
        self._absolute = settings.absolute_timeout
        self._interval = settings.touch_interval
        # A sixteenth: the index is written once in many touches, and the
        # cleaner comes late by no more than that.
        self._width = max(1, int(settings.expiration / 16))
        #: Between which moments the last answer of :meth:`sweep` fits.
        self._window = _NO_WINDOW

    def end(
        self, now: dt.datetime, started: dt.datetime, lifetime: Lifetime
    ) -> dt.datetime:
        """Return when a session that is used *now* expires (aware UTC)."""
        if lifetime.seconds == FIXED and lifetime.at is not None:
            end = lifetime.at
        else:
            idle = self._idle
            if lifetime.seconds is not None:
                idle = dt.timedelta(seconds=lifetime.seconds)
            end = now + idle
        if self._absolute is not None:
            end = min(end, started + dt.timedelta(seconds=self._absolute))
        return end

    def extended(
        self, expires: dt.datetime, lifetime: int | None,
        started: dt.datetime, now: dt.datetime,
    ) -> dt.datetime:
        """Return when a session that is used *now*, and would have expired at
        *expires*, does so: never earlier.

        :param lifetime: the column of its record.
        """
        if lifetime == FIXED:
            return expires
        return max(expires, self.end(now, started, Lifetime(lifetime)))

    def is_over(self, started: dt.datetime, now: dt.datetime) -> bool:
        """Return whether the absolute timeout has passed.

        ``expires`` knows it too, but for one that was set, or shortened,
        after the last write.
        """
        return self._absolute is not None and (
            (now - started).total_seconds() >= self._absolute
        )

    def oldest(self, now: dt.datetime) -> dt.datetime | None:
        """Return when a session has started that is just over now, None
        without an absolute timeout.
        """
        if self._absolute is None:
            return None
        return now - dt.timedelta(seconds=self._absolute)

    def is_touch_due(
        self, now: dt.datetime, accessed: dt.datetime, lifetime: int | None
    ) -> bool:
        """Return whether the expiry was last extended long enough ago."""
        interval = self._interval
        if lifetime:
            # A short session of its own is extended more often.
            interval = min(interval, lifetime / 10)
        return (now - accessed).total_seconds() >= interval

    def columns(
        self, expires: dt.datetime, now: dt.datetime
    ) -> dict[str, dt.datetime]:
        """Return what an expiry that is noted *now* changes in the row."""
        return {
            'accessed': now, 'expires': expires, 'sweep': self.sweep(expires)
        }

    def sweep(self, expires: dt.datetime) -> dt.datetime:
        """Return *expires* rounded up, for the cleaner's index."""
        # Most sessions of some minutes have the same one.
        after, until = self._window
        if after < expires <= until:
            return until
        seconds = math.ceil(expires.timestamp() / self._width) * self._width
        try:
            # Windows converts no seconds beyond the year 3000.
            until = _EPOCH + dt.timedelta(seconds=seconds)
        except OverflowError:
            # set_expiry(datetime.max), where sessions are long.
            return expires
        self._window = until - dt.timedelta(seconds=self._width), until
        return until
