"""The directive ``metric-list``: what OpenTelemetry is told, from the code."""

from __future__ import annotations

from typing import Any

from pyramid_sqlasession.metrics import Metrics


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
    """Return the table as lines of reStructuredText."""
    lines = ['.. list-table::', '   :widths: 40 12 48', '']
    for name, unit, description in metrics():
        lines += [
            f'   * - ``{name}``', f'     - {unit}', f'     - {description}',
        ]
    return lines


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class MetricList(SphinxDirective):
        def run(self) -> list[Any]:
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(), 'metrics'), self.content_offset, container
            )
            return container.children

    app.add_directive('metric-list', MetricList)
    return {'parallel_read_safe': True}
