"""The directive ``event-list``: each event, with its interface's words."""

from __future__ import annotations

import inspect
from typing import Any

from zope.interface import implementedBy

import pyramid_sqlasession


def events() -> list[Any]:
    """Return the public event classes, sorted by name."""
    names = pyramid_sqlasession.__all__
    found = [getattr(pyramid_sqlasession, name) for name in names]
    return [
        one for one in found
        if inspect.isclass(one)
        and one.__module__ == 'pyramid_sqlasession.events'
    ]


def as_rst() -> list[str]:
    """Return the descriptions as lines of reStructuredText."""
    lines = []
    for event in events():
        (interface,) = implementedBy(event)
        lines += [
            '', f'.. py:class:: pyramid_sqlasession.{event.__name__}', '',
            f'   {inspect.getdoc(interface)} Implements '
            f'``{interface.__name__}``.', '',
        ]
        for name in sorted(interface.names()):
            lines.append(f'   - ``{name}``: {interface[name].__doc__}')
    return lines


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class EventList(SphinxDirective):
        # The names, for who reads the source; a test compares them.
        has_content = True

        def run(self) -> list[Any]:
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(), 'events'), self.content_offset, container
            )
            return container.children

    app.add_directive('event-list', EventList)
    return {'parallel_read_safe': True}
