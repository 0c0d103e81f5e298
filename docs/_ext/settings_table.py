"""The directive ``settings-table``: all settings, read from the code.

Names, defaults and allowed values come from ``pyramid_sqlasession.settings``,
the sentences from the comments in ``development.ini``.  tests/test_docs.py
holds the table in README.rst to the same source.
"""

from __future__ import annotations

import inspect
from pathlib import Path
import re
from typing import Any
from typing import NamedTuple

from pyramid_sqlasession import settings as code
from pyramid_sqlasession.durations import spoken

INI = Path(__file__).parents[2] / 'development.ini'

#: Options of an engine: no single key, so no reader in the code.
ENGINE_OPTIONS = 'engine.*'

# Defaults that are no constants.
_COMPUTED = {
    'touch_interval': '60s, at most a tenth of expiration',
    'cookie_max_age': 'as expiration',
    'engine': 'found',
    ENGINE_OPTIONS: 'none',
}

_ALLOWED = {
    'words': 'one or more words',
    'identifier': 'a name',
    'field_name': 'a name',
    'url': 'a URL, as SQLAlchemy takes it',
    'dotted_name_of': 'a dotted name, or the object',
    'serializer': 'json, or a dotted name',
    'table_name': 'a name of at most 63 characters',
    'text': 'a name',
    'flag': 'true or false',
    'secure': 'auto, true or false',
    'read_fields': 'one field per line',
    'positive': 'a duration above 0',
    'not_negative': 'a duration, or 0',
    'interval': 'a duration; 0 or less is off',
    'max_age': 'a duration, or session',
    'size': 'a size such as 64KiB',
    'count': 'a number above 0',
    'cookie_name': 'a cookie name',
    'cookie_path': 'a path',
    'cookie_domain': 'a host name',
}

_DURATIONS = ('positive', 'not_negative', 'interval', 'max_age')


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    default: str
    allowed: str
    text: str
    group: str


def all_settings() -> list[Setting]:
    """Return every setting, in the order of ``development.ini``."""
    said = read_ini(INI.read_text(encoding='utf-8'))
    names = [*code._READERS, ENGINE_OPTIONS]
    missing = sorted(set(names) - set(said))
    if missing:
        raise ValueError(f'{INI.name} does not explain {missing}')
    return [
        Setting(name, default_of(name), allowed(name), text, group)
        for name, (text, group) in said.items()
    ]


def default_of(name: str) -> str:
    """Return the default of a setting, as one would write it in the ini."""
    if name in _COMPUTED:
        return _COMPUTED[name]
    value = getattr(code.read_settings({}), name)
    if name == 'serializer':
        return 'json'
    if name == 'cookie_secure' and value is None:
        return 'auto'
    if value is None or value == ():
        return 'none'
    if isinstance(value, bool):
        return str(value).lower()
    if _reader(name) in _DURATIONS:
        return spoken(value)
    if _reader(name) == 'size':
        return f'{value // 1024**2}MiB'
    return str(value)


def allowed(name: str) -> str:
    """Return what a setting may be, in words."""
    if name == ENGINE_OPTIONS:
        return 'as sqlalchemy.*'
    reader = _reader(name)
    if reader == 'choice_of':
        words = inspect.getclosurevars(code._READERS[name]).nonlocals
        return ', '.join(words['allowed'])
    return _ALLOWED[reader]


def _reader(name: str) -> str:
    # A reader made by a function is called `choice_of.<locals>.read`.
    return code._READERS[name].__qualname__.partition('.')[0]


def read_ini(text: str) -> dict[str, tuple[str, str]]:
    """Return key to (sentence, group) from the comments of an ini file."""
    found: dict[str, tuple[str, str]] = {}
    group, comment = '', []
    for line in text.splitlines():
        key = re.match(r'(?:# )?sqlasession\.([a-z_.]+) =', line)
        title = re.fullmatch(r'# --- (.+)', line)
        if title:
            group, comment = title[1], []
        elif key:
            name = key[1]
            if name.startswith('engine.'):
                name = ENGINE_OPTIONS
            sentence = ' '.join(comment).partition(' Default:')[0]
            found[name] = (sentence.rstrip('.') + '.', group)
            comment = []
        elif line.startswith('# '):
            comment.append(line[2:].strip())
        else:
            comment = []
    return found


def as_rst() -> list[str]:
    """Return the table as lines of reStructuredText."""
    lines: list[str] = []
    group = None
    for setting in all_settings():
        if setting.group != group:
            group = setting.group
            lines += [
                '', f'.. rubric:: {group}', '', '.. list-table::',
                '   :header-rows: 1', '   :widths: 26 17 17 40', '',
                '   * - ``sqlasession.``', '     - default',
                '     - may be', '     - meaning',
            ]
        lines += [
            f'   * - ``{setting.name}``',
            f'     - {setting.default}',
            f'     - {setting.allowed}',
            f'     - {_escaped(setting.text)}',
        ]
    return lines


def _escaped(text: str) -> str:
    # `__Host-` would be a reference, and `sqlalchemy.*` emphasis.
    return re.sub(r'([*_`|])', r'\\\1', text)


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class SettingsTable(SphinxDirective):
        def run(self) -> list[Any]:
            self.env.note_dependency(str(INI))
            self.env.note_dependency(code.__file__)
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(), INI.name), self.content_offset, container
            )
            return container.children

    app.add_directive('settings-table', SettingsTable)
    return {'parallel_read_safe': True}
