"""Additional fields as the settings declare them.

Knows nothing of SQLAlchemy: a field is only described here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
import keyword
import re
from typing import Any

from pyramid.exceptions import ConfigurationError

from pyramid_sqlasession.values import bad_value

#: Names of the columns that every session table has.
TABLE_COLUMNS = (
    'id', 'secret_hash', 'retired', 'version', 'data', 'created', 'started',
    'accessed', 'expires', 'sweep', 'lifetime', 'rotated',
)

#: Names that no additional field can have, as an attribute or an argument has
#: them already.
TAKEN = {
    'metadata': 'is an attribute of SQLAlchemy in each mapped class',
    'registry': 'is an attribute of SQLAlchemy in each mapped class',
    'fields': 'is the attribute with all fields in what session_store finds',
    'except_id': 'is an argument of session_store.revoke_where()',
    'self': 'is an argument of session_store.find()',
}


@dataclass(frozen=True)
class Field:
    """One additional field, as described in the settings."""

    name: str
    #: A name in ``sqlalchemy``, a dotted name, or a type object.
    type: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    index: bool = False
    unique: bool = False
    nullable: bool = True

    @property
    def arguments(self) -> str:
        """Those of the type as they are written, '' if there are none."""
        given = [
            *map(repr, self.args),
            *(f'{name}={value!r}' for name, value in self.kwargs),
        ]
        return f'({", ".join(given)})' if given else ''

    def error(self, problem: str) -> ConfigurationError:
        """Return the error for a column that cannot be made."""
        kind = self.type if isinstance(self.type, str) else repr(self.type)
        return _bad_field(f'{self.name}: {kind}{self.arguments}', problem)


def read_fields(value: Any) -> tuple[Field, ...]:
    """Return the fields that a value of ``additional_fields`` describes.

    :raises ConfigurationError: if it describes none.
    """
    if isinstance(value, Mapping):
        fields = [
            parse_field(f'{key}: {kind}')
            if isinstance(kind, str)
            else Field(_column(key, key), kind)
            for key, kind in value.items()
        ]
    else:
        lines = value.splitlines() if isinstance(value, str) else value
        if not isinstance(lines, Iterable):
            raise _bad_field(value, _FIELD)
        fields = [
            line if isinstance(line, Field) else parse_field(line)
            for line in lines
            if isinstance(line, Field) or str(line).strip()
        ]
    seen = set()
    for one in fields:
        # Some databases do not tell A from a.
        if one.name.lower() in seen:
            raise _bad_field(
                one.name, 'is given twice (capital letters make no other name)'
            )
        seen.add(one.name.lower())
    return tuple(fields)


_FIELD = (
    'a field is written "name: Type[(args)] [index] [unique] [not null]", '
    'one per line, for example "user_id: Integer index" or '
    '"note: String(64)"'
)
_FIELD_LINE = re.compile(
    r'\s*(?P<name>[^\s:]+)\s*:\s*(?P<type>[^\s(]+)\s*(?P<args>\(.*\))?'
    r'\s*(?P<flags>[^()]*)'
)


def parse_field(line: str) -> Field:
    """Return the field that a line of ``additional_fields`` describes.

    :raises ConfigurationError: naming the line.
    """
    match = _FIELD_LINE.fullmatch(str(line))
    if match is None:
        raise _bad_field(line, _FIELD)
    flags = ' '.join(match['flags'].lower().split())
    options = {'index': False, 'unique': False, 'not null': False}
    for flag in re.findall(r'not null|\S+', flags):
        if flag not in options:
            raise _bad_field(
                line,
                f'{flag!r} is not one of index, unique, not null; {_FIELD}',
            )
        options[flag] = True
    args, kwargs = _arguments(line, match['args'] or '()')
    return Field(
        _column(match['name'], line), match['type'], args, kwargs,
        index=options['index'], unique=options['unique'],
        nullable=not options['not null'],
    )


def _column(name: Any, line: object) -> str:
    if (
        not isinstance(name, str)
        or not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]{0,62}', name)
    ):
        raise _bad_field(
            line,
            f'{name!r} is not a name of at most 63 ASCII letters, digits and '
            f'underscores that begins with a letter',
        )
    if keyword.iskeyword(name):
        raise _bad_field(
            line, f'{name!r} is a word of Python: give the field another name'
        )
    if name.lower() in TABLE_COLUMNS:
        raise _bad_field(
            line,
            f'{name!r} is the name of a column that the table has already',
        )
    if name in TAKEN:
        raise _bad_field(
            line, f'{name!r} {TAKEN[name]}: give the field another name'
        )
    return name


def _arguments(
    line: str, text: str
) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    try:
        call = ast.parse(f'f{text}', mode='eval').body
        if not isinstance(call, ast.Call) or (
            not isinstance(call.func, ast.Name)
        ):
            raise ValueError
        return (
            tuple(ast.literal_eval(arg) for arg in call.args),
            tuple(
                (str(word.arg), ast.literal_eval(word.value))
                for word in call.keywords
            ),
        )
    except (SyntaxError, ValueError):
        raise _bad_field(
            line,
            f'the arguments {text} must be numbers, quoted texts, True or '
            f'False; {_FIELD}',
        ) from None


def _bad_field(value: object, problem: str) -> ConfigurationError:
    return bad_value('additional_fields', value, problem)
