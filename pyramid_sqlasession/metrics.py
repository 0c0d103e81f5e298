"""What OpenTelemetry is told, if ``opentelemetry-api`` is installed.

The extra ``metrics`` installs it.  Names follow its conventions for metrics
(https://opentelemetry.io/docs/specs/semconv/general/metrics/); durations are
in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyramid_sqlasession.base import Base
from pyramid_sqlasession.events import Suspicion
from pyramid_sqlasession.plan import Outcome
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.watching import Found
from pyramid_sqlasession.watching import kind_of
from pyramid_sqlasession.watching import kinds_of
from pyramid_sqlasession.watching import Watcher

_RESULT = 'sqlasession.load.result'
_KIND = 'sqlasession.save.kind'
_RESOLUTION = 'sqlasession.conflict.resolution'
_DROP_REASON = 'sqlasession.drop.reason'
_FORGERY_REASON = 'sqlasession.forgery.reason'

# Those of the conventions for database clients: the default ones are made
# for milliseconds.
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


def watcher() -> Watcher:
    """Return who counts, or who does not if nobody could read it."""
    try:
        from opentelemetry.metrics import get_meter
    except ImportError:
        return Watcher()
    return Metrics(get_meter('pyramid_sqlasession'))


class Metrics(Watcher):
    """Counts what happens.

    :param meter: an ``opentelemetry.metrics.Meter``.
    """

    def __init__(self, meter: Any) -> None:
        def counter(name: str, unit: str, description: str) -> Any:
            return meter.create_counter(
                f'sqlasession.{name}', unit, description
            )

        def duration(name: str, description: str) -> Any:
            return meter.create_histogram(
                f'sqlasession.{name}.duration', 's', description,
                explicit_bucket_boundaries_advisory=_BUCKETS,
            )

        self._loads = counter(
            'session.loads', '{session}',
            'Cookies for which the database was asked.',
        )
        self._saves = counter(
            'session.saves', '{session}', 'Committed writes.'
        )
        self._touches = counter(
            'session.touches', '{session}',
            'Requests that only read, and extended the expiry.',
        )
        self._renewals = counter(
            'session.renewals', '{session}', 'Periodic new tokens.'
        )
        self._conflicts = counter(
            'session.conflicts', '{conflict}',
            'Writes that met one of another request.',
        )
        self._drops = counter(
            'session.drops', '{session}',
            'Writes that came after the end of their session.',
        )
        self._forgeries = counter(
            'cookie.forgeries', '{cookie}',
            'Cookies with a wrong signature or a wrong secret.',
        )
        self._cleaned = counter(
            'session.cleaned', '{session}',
            'Expired records that the cleaner deleted.',
        )
        self._load_time = duration('load', 'Duration of loading.')
        self._save_time = duration(
            'save', 'Duration of writing, without the COMMIT.'
        )
        self._touch_time = duration(
            'touch', 'Duration of extending the expiry.'
        )
        self._clean_time = duration('clean', 'Duration of a run that deleted.')

    def loaded(self, found: Found, base: Base, seconds: float) -> None:
        super().loaded(found, base, seconds)
        if found.asked_the_database:
            attributes = {_RESULT: found.value}
            self._loads.add(1, attributes)
            self._load_time.record(seconds, attributes)

    def written(self, plan: Plan, outcome: Outcome, seconds: float) -> None:
        super().written(plan, outcome, seconds)
        self._save_time.record(seconds, {_KIND: kind_of(outcome)})
        if outcome.merged:
            self._conflicts.add(1, {_RESOLUTION: 'merge'})

    def conflicted(self, keys: Iterable[str]) -> None:
        super().conflicted(keys)
        self._conflicts.add(1, {_RESOLUTION: 'retry'})

    def committed(self, outcome: Outcome) -> None:
        super().committed(outcome)
        for kind in kinds_of(outcome):
            if kind != 'drop':
                self._saves.add(1, {_KIND: kind})
        if outcome.renewed:
            self._renewals.add(1)
        for _, reason in outcome.dropped:
            self._drops.add(1, {_DROP_REASON: reason})

    def cared(self, outcome: Outcome, seconds: float) -> None:
        super().cared(outcome, seconds)
        if outcome.touched:
            self._touches.add(1)
        if outcome.renewed:
            self._renewals.add(1)
        self._touch_time.record(seconds)

    def suspected(self, reason: Suspicion) -> None:
        super().suspected(reason)
        self._forgeries.add(1, {_FORGERY_REASON: reason})

    def cleaned(self, count: int, seconds: float) -> None:
        super().cleaned(count, seconds)
        self._cleaned.add(count)
        self._clean_time.record(seconds)
