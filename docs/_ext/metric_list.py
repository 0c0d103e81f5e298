"""The directive ``metric-list``: what OpenTelemetry is told, from the code."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

from pyramid_sqlasession import metrics as code
from pyramid_sqlasession.metrics import Metrics
from pyramid_sqlasession.watching import Found


class Attribute(NamedTuple):
    """One attribute of measurements."""

    name: str
    #: Without ``sqlasession.`` in front.
    metrics: tuple[str, ...]
    values: tuple[str, ...]


ATTRIBUTES = (
    Attribute(
        code._RESULT, ('session.loads', 'load.duration'),
        tuple(found for found in Found if found.asked_the_database),
    ),
    Attribute(
        code._KIND, ('session.saves', 'save.duration'),
        ('create', 'update', 'rotate', 'remove', 'drop'),
    ),
    Attribute(
        code._RESOLUTION, ('session.conflicts',), ('merge', 'retry')
    ),
    Attribute(
        code._DROP_REASON, ('session.drops',),
        ('gone', 'expired', 'rotated', 'unavailable'),
    ),
    Attribute(
        code._FORGERY_REASON, ('cookie.forgeries',), ('signature', 'secret')
    ),
)


class Meter:
    """Notes what is created, as (name, unit, description)."""

    def __init__(self) -> None:
        self.created: list[tuple[str, str, str]] = []

    def create_counter(self, name: str, unit: str, description: str) -> None:
        self.created.append((name, unit, description))

    def create_histogram(
        self, name: str, unit: str, description: str, **more: Any
    ) -> None:
        self.created.append((name, unit, description))


def metrics() -> list[tuple[str, str, str]]:
    """Return all metrics, as (name, unit, description)."""
    meter = Meter()
    Metrics(meter)
    return meter.created


def as_rst() -> list[str]:
    """Return both tables as lines of reStructuredText."""
    lines = ['.. list-table::', '   :widths: 40 12 48', '']
    for name, unit, description in metrics():
        lines += [
            f'   * - ``{name}``', f'     - {unit}', f'     - {description}',
        ]
    lines += [
        '', 'Some have an attribute:', '',
        '.. list-table::', '   :header-rows: 1', '   :widths: 34 33 33', '',
        '   * - attribute', '     - of ``sqlasession.``', '     - values',
    ]
    for one in ATTRIBUTES:
        lines += [
            f'   * - ``{one.name}``',
            f'     - {_listed(one.metrics)}',
            f'     - {_listed(one.values)}',
        ]
    return lines


def _listed(words: tuple[str, ...]) -> str:
    return ', '.join(f'``{word}``' for word in words)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class MetricList(SphinxDirective):
        # The names, for who reads the source; a test compares them.
        has_content = True

        def run(self) -> list[Any]:
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(), 'metrics'), self.content_offset, container
            )
            return container.children

    app.add_directive('metric-list', MetricList)
    return {'parallel_read_safe': True}
