"""The command ``psessions``: look at the sessions in the database, end them.

It starts the application, as Pyramid's own commands do: only then are known
what ``main()`` sets, the engine in ``registry['dbsession_factory']`` and the
application's own model.  Its cleaner is stopped at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import configparser
from contextlib import contextmanager
import datetime as dt
from decimal import Decimal
import enum
import itertools
import json
import logging
import math
import os
import pprint
import sys
import textwrap
import time
import traceback
from typing import Any
from typing import NoReturn
from typing import TextIO
from typing import TypeVar
import uuid
import warnings

with warnings.catch_warnings():
    # Pyramid imports it; at each call of the command there would be two
    # lines about that.
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    from pyramid.exceptions import ConfigurationError
    from pyramid.paster import bootstrap
    from pyramid.paster import setup_logging

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine.mock import MockConnection

from pyramid_sqlasession import advice
from pyramid_sqlasession import dialects
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.changes import CSRF
from pyramid_sqlasession.codec import DamagedData
from pyramid_sqlasession.dialects import Fault
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.errors import SessionFieldError
from pyramid_sqlasession.events import SessionsExpired
from pyramid_sqlasession.settings import duration
from pyramid_sqlasession.wiring import application_of
from pyramid_sqlasession.wiring import stop_expiring_sessions

log = logging.getLogger(__name__)

Result = TypeVar('Result')

DIALECTS = ('postgresql', 'mysql', 'mariadb', 'sqlite')

# Rows deleted in one transaction, and ids known at a time: 100,000 take some
# 15 MB.
_BATCH = 1000
_CHOSEN = 100_000

# Rows whose data are held, and written in one transaction: each has up to
# sqlasession.max_size.
_REENCRYPTED = 100

# A batch that the database refused in favour of another transaction.
_REPETITIONS = 6


class Failure(Exception):
    """Something went wrong; the text is one line that says what to do."""

    code = 1


class UsageFailure(Failure):
    """The command was called in a way that cannot work."""

    code = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``psessions``; return its exit code.

    0: done; 1: the database, the application or the session is not as it
    must be; 2: called in a wrong way.

    :param argv: the arguments, without the name of the command.
    """
    args = argparse.Namespace(ini='<your.ini>', traceback=False)
    try:
        # Into ours: --traceback counts for what is wrong behind it, too.
        _parser().parse_args(argv, args)
        code = _run(args)
        sys.stdout.flush()
        return code
    except SystemExit as error:
        # --help
        return int(error.code or 0)
    except BrokenPipeError:
        # "psessions … | head".  Python itself flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        _say(_line('interrupted', *getattr(error, '__notes__', ())))
        return 130
    except Exception as error:
        if args.traceback:
            traceback.print_exception(error)
        _say(_explained(error, args.ini))
        return _code_of(error)


def _run(args: argparse.Namespace) -> int:
    _check_usage(args)
    with _started(args) as application:
        command: Callable[[Application, argparse.Namespace], int] = args.run
        return command(application, args)


# -- the arguments ------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage, too, which takes several lines.
        raise UsageFailure(f'{message} ("psessions --help" tells more)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='psessions',
        usage='psessions [-h] [--var NAME=VALUE] [--traceback] INI [COMMAND] '
        '...',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Look at the sessions of a Pyramid application, and end '
        'them.',
        epilog=textwrap.dedent("""\
            examples:
              psessions production.ini table
              psessions production.ini stats --json
              psessions production.ini list --field user_id=7
              psessions production.ini revoke --field user_id=7
              psessions production.ini list --help

            Exit codes: 0 done, 1 not possible now, 2 called in a wrong way.
            Secrets are never shown. All times are UTC. Colours are used on a
            terminal only, and not if NO_COLOR is set.
            """),
    )
    parser.add_argument(
        'ini', metavar='INI',
        help="the application's ini file; FILE#NAME for another section "
        'than main',
    )
    parser.add_argument(
        '--var', metavar='NAME=VALUE', action='append', default=[],
        help='a variable that the ini file needs: %%(NAME)s',
    )
    parser.add_argument(
        '--traceback', action='store_true',
        help='show where an error came from',
    )
    commands = parser.add_subparsers(
        title='commands', dest='command', metavar='COMMAND',
        prog='psessions INI',
        description='without one: stats',
    )
    parser.set_defaults(run=_stats, json=False)
    _add_looking(commands)
    _add_changing(commands)
    return parser


def _add_looking(commands: Any) -> None:
    def add(name: str, run: Any, help: str) -> Any:
        parser = commands.add_parser(
            name, help=help, description=f'{help[0].upper()}{help[1:]}.'
        )
        parser.add_argument(
            '--json', action='store_true', help='for programs: JSON'
        )
        parser.set_defaults(run=run)
        return parser

    add('stats', _stats, 'count the sessions, by age and size')
    listed = add('list', _list, 'list the live sessions, newest first')
    _add_fields(listed)
    listed.add_argument(
        '--limit', metavar='N', type=_limit, default=50,
        help='at most so many (default: %(default)s)',
    )
    shown = add('show', _show, 'show one session with its data')
    shown.add_argument('id', metavar='ID', type=_id, help='as list shows it')


def _add_changing(commands: Any) -> None:
    def add(name: str, run: Any, help: str) -> Any:
        parser = commands.add_parser(
            name, help=help, description=f'{help[0].upper()}{help[1:]}.'
        )
        parser.set_defaults(run=run)
        return parser

    table = add('table', _table, 'create the table if it is missing')
    table.add_argument(
        '--sql', metavar='DIALECT', type=_dialect, nargs='?', const=True,
        help='print the SQL instead, without connecting; for the database '
        f'of the application, or for one of {", ".join(DIALECTS)}',
    )
    revoke = add('revoke', _revoke, 'end sessions: their users are logged out')
    revoke.add_argument(
        'ids', metavar='ID', type=_id, nargs='*', help='as list shows it'
    )
    _add_fields(revoke)
    revoke.add_argument(
        '--all', action='store_true',
        help='the sessions of everybody; asks first',
    )
    revoke.add_argument('--yes', action='store_true', help='do not ask')
    add('expire', _expire, 'delete the expired sessions now')
    add(
        'reencrypt', _reencrypt,
        'encrypt all data with the first of sqlasession.encryption_keys',
    )


def _add_fields(parser: Any) -> None:
    parser.add_argument(
        '--field', metavar='NAME=VALUE', action='append', default=[],
        dest='fields',
        help='only those with this value of an additional field; several '
        'have to be true together',
    )


def _limit(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0')
    return int(text)


def _dialect(text: str) -> str:
    if text not in DIALECTS:
        raise argparse.ArgumentTypeError(
            f'{text!r} is none of {", ".join(DIALECTS)}'
        )
    return text


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not the id of a session, which looks like '
            f'12345678-1234-4abc-8def-1234567890ab; the command list shows '
            f'them'
        ) from None


def _pair(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition('=')
    if not name or not separator:
        raise UsageFailure(f'{option} {text!r}: write it as NAME=VALUE')
    return name, value


def _check_usage(args: argparse.Namespace) -> None:
    """Refuse what argparse cannot see, before the application starts."""
    for text in (*args.var, *getattr(args, 'fields', ())):
        _pair('--var' if text in args.var else '--field', text)
    if args.run is _revoke:
        ways = [bool(args.ids), bool(args.fields), args.all]
        if sum(ways) != 1:
            raise UsageFailure(
                'revoke needs to know which: one or more ids, or --field '
                'NAME=VALUE, or --all'
            )
        if args.all and not args.yes and not sys.stdin.isatty():
            raise UsageFailure(
                'revoke --all asks first, and there is no terminal to ask '
                'at; add --yes to do it without'
            )


# -- the application ----------------------------------------------------------


@contextmanager
def _started(args: argparse.Namespace) -> Iterator[Application]:
    """Start the application of the ini file, give ours in it."""
    options = dict(_pair('--var', text) for text in args.var)
    options.setdefault('__script__', 'psessions')
    try:
        setup_logging(args.ini, global_conf=options)
        # This is no process that serves: its settings are none to weigh.
        with advice.withheld():
            env = bootstrap(args.ini, options=options)
    except Exception as error:
        raise _not_started(error, args.ini) from error
    try:
        try:
            application = application_of(env['registry'])
        except ConfigurationError as error:
            raise Failure(
                f'the application of {args.ini} has no sessions of '
                f'pyramid_sqlasession; add it to pyramid.includes in the '
                f"file, or config.include('pyramid_sqlasession') to the code"
            ) from error
        # Before its first interval is over; this command is no worker.
        stop_expiring_sessions(env['registry'])
        try:
            yield application
        finally:
            application.engine.dispose()
    finally:
        env['closer']()


def _not_started(error: Exception, ini: str) -> Failure:
    path = ini.partition('#')[0]
    if '://' not in path and not os.path.exists(path):
        return UsageFailure(
            f'there is no file {path!r}; the first argument is the ini file '
            f'of the application'
        )
    if isinstance(error, configparser.InterpolationMissingOptionError):
        return UsageFailure(
            f'{ini} needs the variable {error.reference!r}; give it with '
            f'--var {error.reference}=VALUE'
        )
    # Pyramid puts an error of an action into one that tells the place.
    error = getattr(error, 'evalue', None) or error
    if isinstance(error, ConfigurationError):
        return Failure(_line(error))
    return Failure(
        _line(f'the application of {ini} does not start', _text_of(error))
    )


# -- errors -------------------------------------------------------------------


def _explained(error: Exception, ini: str) -> str:
    """Return one line on what happened and what to do."""
    if isinstance(error, Failure):
        return _line(error)
    # Ours about the table and the database have the driver's as cause.
    cause = error.__cause__ if isinstance(error, SessionError) else error
    notes = getattr(error, '__notes__', ())
    if isinstance(cause, exc.DBAPIError | exc.TimeoutError):
        fault = dialects.fault_of(cause)
        text = _text_of(cause)
        if fault is Fault.UNAVAILABLE:
            return _line(
                'the database does not answer (does it run, and is its '
                'address in the ini file right?)', text, *notes,
            )
        if fault is Fault.MISSING:
            return _line(
                f'the table of the sessions, or a column of it, is missing; '
                f'run "psessions {ini} table"', text, *notes,
            )
        return _line('the database refused it', text, *notes)
    if isinstance(error, SessionError | ConfigurationError):
        return _line(error, *notes)
    return _line(
        _text_of(error), *notes, '"psessions --traceback …" tells more'
    )


def _code_of(error: Exception) -> int:
    # DataError: a value that only the database could judge, such as an INET.
    if isinstance(error, exc.DataError):
        return UsageFailure.code
    return error.code if isinstance(error, Failure) else Failure.code


def _text_of(error: BaseException) -> str:
    if isinstance(error, exc.DBAPIError):
        # Without the statement and its values.
        return str(error.orig)
    if isinstance(error, exc.TimeoutError):
        return str(error)
    return f'{type(error).__name__}: {error}'


def _line(*parts: object) -> str:
    text = ': '.join(' '.join(str(part).split()) for part in parts)
    return text if len(text) <= 1000 else f'{text[:999]}…'


def _say(text: str) -> None:
    """Write a line to stderr."""
    print(_encodable(f'psessions: {text}', sys.stderr), file=sys.stderr)


# -- output -------------------------------------------------------------------


def _print(text: str = '') -> None:
    print(_encodable(text, sys.stdout))


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or 'ascii'
    return text.encode(encoding, 'backslashreplace').decode(encoding)


def _print_json(value: object) -> None:
    _print(json.dumps(value, indent=2, default=str))


def _bold(text: str) -> str:
    return f'\x1b[1m{text}\x1b[0m' if _has_colours(sys.stdout) else text


def _has_colours(stream: TextIO) -> bool:
    # https://no-color.org
    return (
        stream.isatty()
        and not os.environ.get('NO_COLOR')
        and os.environ.get('TERM') != 'dumb'
    )


def _plural(count: int, one: str, many: str) -> str:
    return f'{count:,} {one if count == 1 else many}'


def _bytes(count: int) -> str:
    size, unit = float(count), 'B'
    for unit in ('B', 'KiB', 'MiB', 'GiB', 'TiB'):
        if size < 1024 or unit == 'TiB':
            break
        size /= 1024
    return f'{count} B' if unit == 'B' else f'{size:.1f} {unit}'


def _shown(value: Any) -> str:
    """Return *value* for a person: one line, no control characters."""
    if value is None:
        return '-'
    if isinstance(value, dt.datetime):
        return value.strftime('%Y-%m-%d %H:%M:%S')
    if isinstance(value, bytes):
        return value.hex()
    text = value.name if isinstance(value, enum.Enum) else str(value)
    # A user agent, say, is anybody's text, and could command the terminal.
    return text if text.isprintable() else repr(text)[1:-1]


def _json_value(value: Any) -> Any:
    """Return what stands for *value* in JSON."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, set | frozenset):
        return [_json_value(item) for item in sorted(value, key=repr)]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | None):
        return value
    return str(value)


class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._stream = sys.stderr

    @staticmethod
    def is_wanted() -> bool:
        return sys.stderr.isatty()

    def show(self, done: int) -> None:
        if self._total:
            part = min(1.0, done / self._total)
            bar = f'{"#" * round(part * 30):<30}'
            self._stream.write(
                f'\r[{bar}] {part:4.0%}  {done:,} of {self._total:,}'
            )
            self._stream.flush()

    def clear(self) -> None:
        if self._total:
            self._stream.write(f'\r{" " * 78}\r')
            self._stream.flush()


# -- fields -------------------------------------------------------------------


def _where(
    application: Application, pairs: Iterable[str]
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that ``--field`` stands for."""
    columns = application.fields.columns
    names = ', '.join(sorted(columns))
    where: dict[str, sa.ColumnElement[bool]] = {}
    for text in pairs:
        name, value = _pair('--field', text)
        if name not in columns:
            there = f'there are: {names}' if names else (
                'this application has none (sqlasession.additional_fields)'
            )
            raise UsageFailure(f'{name!r} is no additional field; {there}')
        if name in where:
            raise UsageFailure(f'--field {name} is given twice')
        where[name] = columns[name] == _field_value(application, name, value)
    return list(where.values())


def _field_value(application: Application, name: str, text: str) -> Any:
    """Return the value that *text* is for the column of the field."""
    type_ = application.fields.columns[name].type
    try:
        kind = type_.python_type
    except NotImplementedError:
        kind = object
    if kind is object and not isinstance(type_, sa.JSON):
        # INET and its like: the database reads text.
        kind = str
    what, read = _kind(type_, kind)
    if read is None:
        raise UsageFailure(
            f'the field {name!r} is of the type {type_!r}, by which psessions '
            f'cannot search'
        )
    try:
        value = read(text)
    except (ValueError, ArithmeticError, KeyError):
        raise UsageFailure(
            f'the field {name!r} takes {what}, not {text!r}'
        ) from None
    try:
        return application.fields.check(name, value)
    except SessionFieldError as error:
        raise UsageFailure(str(error)) from error


def _kind(
    type_: Any, kind: type
) -> tuple[str, Callable[[str], Any] | None]:
    if isinstance(type_, sa.Enum) and type_.enum_class is not None:
        # The column holds the names.
        return (
            f'one of {", ".join(type_.enums)}',
            type_.enum_class.__getitem__,
        )
    if kind is dt.datetime and getattr(type_, 'timezone', False):
        return 'a time such as 2026-11-23T12:30:00+00:00', _aware
    return _KINDS.get(kind, ('', None))


def _bool(text: str) -> bool:
    word = text.lower()
    if word not in ('true', 'false', 'yes', 'no', '1', '0'):
        raise ValueError
    return word in ('true', 'yes', '1')


def _aware(text: str) -> dt.datetime:
    found = dt.datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


_KINDS: dict[type, tuple[str, Callable[[str], Any]]] = {
    str: ('a text', str),
    int: ('a whole number', int),
    float: ('a number', float),
    Decimal: ('a number', Decimal),
    bool: ('true or false', _bool),
    uuid.UUID: ('a UUID', uuid.UUID),
    bytes: ('bytes as hexadecimal digits', bytes.fromhex),
    dt.date: ('a date such as 2026-11-23', dt.date.fromisoformat),
    dt.time: ('a time such as 12:30:00', dt.time.fromisoformat),
    dt.datetime: (
        'a time such as 2026-11-23T12:30:00', dt.datetime.fromisoformat
    ),
    dt.timedelta: (
        'a duration such as 90s or 1h30m',
        lambda text: dt.timedelta(seconds=duration(text)),
    ),
}


# -- table --------------------------------------------------------------------


def _table(application: Application, args: argparse.Namespace) -> int:
    table = application.records.table
    if args.sql:
        name = None if args.sql is True else args.sql
        _print(_ddl(application, name).rstrip())
        return 0
    columns = application.read_aside(lambda c: _columns_in(c, table))
    if columns is None:
        _create(application, args.ini)
        _print(f'the table {table.fullname} was created')
        return 0
    missing = [c.name for c in table.columns if c.name not in columns]
    if missing:
        raise Failure(
            f'the table {table.fullname} is there, but without '
            f'{", ".join(missing)}; add what is missing by a migration '
            f'("psessions {args.ini} table --sql" shows how it must be)'
        )
    _print(f'the table {table.fullname} was there already')
    return 0


def _ddl(application: Application, name: str | None) -> str:
    """Return the statements that create the table, types and indexes."""
    dialect = application.engine.dialect
    if name is not None:
        # No driver is imported for it.
        dialect = sa.make_url(f'{name}://').get_dialect()()
    statements: list[str] = []

    def note(statement: Any, *args: object, **kwargs: object) -> None:
        text = str(statement.compile(dialect=dialect))
        statements.append(f'{text.strip()};\n')

    try:
        # As create() does it: on PostgreSQL an Enum is a type to create.
        application.records.table.create(
            MockConnection(dialect, note), checkfirst=False
        )
    except exc.CompileError as error:
        raise Failure(
            f'this table cannot be made in {dialect.name}: {error}'
        ) from error
    return '\n'.join(statements)


def _columns_in(
    connection: sa.Connection, table: sa.Table
) -> set[str] | None:
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name, schema=table.schema):
        return None
    found = inspector.get_columns(table.name, schema=table.schema)
    return {column['name'] for column in found}


def _create(application: Application, ini: str) -> None:
    table = application.records.table
    try:
        dialects.create_once(
            application.engine, application.records.create_table,
            table.fullname,
        )
    except exc.DBAPIError as error:
        if dialects.fault_of(error) is Fault.UNAVAILABLE:
            raise
        # Not "run psessions table": this is it.
        others = sorted(
            {key.target_fullname.rpartition('.')[0]
             for key in table.foreign_keys}
        )
        hint = 'it refers to ' + ', '.join(others) + (
            ', which must be there before'
        )
        raise Failure(
            _line(
                f'the table {table.fullname} cannot be created',
                *([hint] if others else []), _text_of(error),
            )
        ) from error


# -- stats --------------------------------------------------------------------

_AGES = (
    ('5m', '5 minutes', 300),
    ('1h', '1 hour', 3600),
    ('1d', '1 day', 86400),
    ('7d', '7 days', 7 * 86400),
    ('30d', '30 days', 30 * 86400),
)


def _stats(application: Application, args: argparse.Namespace) -> int:
    now = application.now()
    row = application.read_aside(
        lambda connection: connection.execute(
            _aggregates(application, connection.dialect, now)
        ).one()
    )
    found = dict(row._mapping)
    count = found['live'] + found['expired']
    total = int(found['total'] or 0)
    table, indexes = _disk(application)
    stats = {
        'table': application.records.table.fullname,
        'database': application.engine.url.render_as_string(),
        'at': now.isoformat(),
        'live': found['live'],
        'expired': found['expired'],
        'created': _buckets(found, 'created'),
        'last_used': _buckets(found, 'accessed'),
        'data': {
            'average': round(total / count) if count else 0,
            'largest': int(found['largest'] or 0),
            'total': total,
        },
        'disk': {'table': table, 'indexes': indexes},
    }
    if args.json:
        _print_json(stats)
    else:
        _print_stats(stats, args.ini)
    return 0


def _aggregates(
    application: Application, dialect: sa.Dialect, now: dt.datetime
) -> sa.Select[Any]:
    """Return one statement that counts everything in one pass."""
    c = application.records.table.c
    live = c.expires > now

    def count(condition: Any, label: str) -> Any:
        return sa.func.count(sa.case((condition, 1))).label(label)

    # Live ones that are not older; the buckets are the differences.
    ages = [
        count(live & (column > now - dt.timedelta(seconds=age)),
              f'{column.name}_{name}')
        for column in (c.created, c.accessed)
        for name, _, age in _AGES
    ]
    size = _size(c.data, dialect)
    return sa.select(
        count(live, 'live'),
        (sa.func.count() - sa.func.count(sa.case((live, 1)))).label('expired'),
        *ages,
        sa.func.max(size).label('largest'),
        sa.func.sum(size).label('total'),
    ).select_from(application.records.table)


def _size(column: sa.Column[Any], dialect: sa.Dialect) -> Any:
    """Return the expression for the bytes of a text column."""
    if dialect.name == 'sqlite':
        # octet_length() came with SQLite 3.43.
        return sa.func.length(sa.cast(column, sa.LargeBinary))
    return sa.func.octet_length(column)


def _buckets(found: dict[str, Any], column: str) -> dict[str, int]:
    buckets = {}
    younger = 0
    for name, _, _ in _AGES:
        count = found[f'{column}_{name}']
        buckets[name] = count - younger
        younger = count
    buckets['older'] = found['live'] - younger
    return buckets


_DISK = {
    'postgresql': """
        SELECT pg_table_size(CAST(:quoted AS regclass)),
               pg_indexes_size(CAST(:quoted AS regclass))""",
    'mysql': """
        SELECT data_length, index_length FROM information_schema.tables
        WHERE table_schema = COALESCE(:schema, DATABASE())
          AND table_name = :name""",
    # An optional module of SQLite; the usual builds have it.
    'sqlite': """
        SELECT SUM(CASE WHEN m.type = 'table' THEN s.pgsize END),
               SUM(CASE WHEN m.type = 'index' THEN s.pgsize END)
        FROM sqlite_master AS m JOIN dbstat AS s ON s.name = m.name
        WHERE m.tbl_name = :name AND s.aggregate = TRUE""",
}
_DISK['mariadb'] = _DISK['mysql']


def _disk(application: Application) -> tuple[int | None, int | None]:
    """Return the bytes on disk of table and indexes, None if not told."""
    dialect = application.engine.dialect
    if dialect.name not in _DISK:
        return None, None
    table = application.records.table
    statement = sa.text(_DISK[dialect.name])
    values = {
        'quoted': dialect.identifier_preparer.format_table(table),
        'schema': table.schema,
        'name': table.name,
    }
    try:
        row = application.read_aside(
            lambda connection: connection.execute(statement, values).first()
        )
    except (exc.DBAPIError, SessionError) as error:
        # No right to ask, or no such module: nothing depends on it.
        log.debug('the database does not tell its sizes: %s', error)
        return None, None
    table_bytes, index_bytes = (None, None) if row is None else row
    return (
        None if table_bytes is None else int(table_bytes),
        None if index_bytes is None else int(index_bytes),
    )


def _print_stats(stats: dict[str, Any], ini: str) -> None:
    _print(f'{_bold("Sessions")} in {stats["table"]}, {stats["database"]}')
    _print(f'  live         {stats["live"]:>15,}')
    hint = f'   ("psessions {ini} expire" deletes them)'
    _print(
        f'  expired      {stats["expired"]:>15,}'
        + (hint if stats['expired'] else '')
    )
    _print()
    _print(
        f'{_bold("Age")} of the live ones  {"created":>12} {"last used":>15}'
    )
    labels = [f'up to {label}' for _, label, _ in _AGES]
    for name, label in zip(
        stats['created'], [*labels, 'older'], strict=True
    ):
        _print(
            f'  {label:<15}{stats["created"][name]:>15,} '
            f'{stats["last_used"][name]:>15,}'
        )
    _print()
    _print(f'{_bold("Size")}')
    for label, count in (
        ('data, average', stats['data']['average']),
        ('data, largest', stats['data']['largest']),
        ('data, total', stats['data']['total']),
        ('table on disk', stats['disk']['table']),
        ('indexes on disk', stats['disk']['indexes']),
    ):
        shown = 'not known' if count is None else _bytes(count)
        _print(f'  {label:<15}{shown:>13}')


# -- list and show ------------------------------------------------------------


class _Unreadable:
    """A value that SQLite keeps although it does not fit the column."""

    def __str__(self) -> str:
        return '(damaged)'


class _Lenient(sa.types.UserDefinedType[Any]):
    """Reads as another type does, and survives what that cannot read."""

    cache_ok = False

    def __init__(self, type_: Any) -> None:
        # By the name of the argument, or SQLAlchemy cannot copy it.
        self.type_ = type_

    def result_processor(
        self, dialect: sa.Dialect, coltype: object
    ) -> Callable[[Any], Any] | None:
        read = self.type_.dialect_impl(dialect).result_processor(
            dialect, coltype
        )

        def process(value: Any) -> Any:
            try:
                return value if read is None else read(value)
            # Whatever an application's own type raises.
            except Exception:
                return _Unreadable()

        return process


def _leniently(column: Any) -> Any:
    return sa.type_coerce(column, _Lenient(column.type))


def _list(application: Application, args: argparse.Namespace) -> int:
    where = _where(application, args.fields)
    fields = application.fields.columns
    c = application.records.table.c
    with application.connect() as connection:
        statement = (
            sa.select(
                *(_leniently(column) for column in
                  (c.id, c.created, c.accessed, c.expires)),
                _size(c.data, connection.dialect),
                *(_leniently(column) for column in fields.values()),
            )
            .where(c.expires > application.now(), *where)
            .order_by(c.created.desc(), c.id.desc())
            # One more tells whether there are more.
            .limit(args.limit + 1)
        )
        # A million rows are no reason to hold a million rows.
        rows = connection.execute(
            statement, execution_options={'yield_per': 500}
        )
        first = itertools.islice(rows, args.limit)
        if args.json:
            _print_list_json(first, list(fields))
        else:
            _print_list(first, list(fields))
        if rows.first() is not None:
            _say(
                f'there are more than these {args.limit}; --limit N shows '
                f'more'
            )
    return 0


def _print_list(rows: Iterator[Any], fields: list[str]) -> None:
    start = list(itertools.islice(rows, 200))
    if not start:
        _print('no live sessions')
        return
    names = ['id', 'created (UTC)', 'last used', 'expires', 'bytes', *fields]
    table = [[_cell(value) for value in row] for row in start]
    widths = [
        max(len(name), *(len(line[i]) for line in table))
        for i, name in enumerate(names)
    ]

    def aligned(cells: list[str]) -> str:
        texts = [
            cell.rjust(width) if i == 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return '  '.join(texts).rstrip()

    _print(_bold(aligned(names)))
    for line in table:
        _print(aligned(line))
    for row in rows:
        _print(aligned([_cell(value) for value in row]))


def _cell(value: Any) -> str:
    text = _shown(value)
    return text if len(text) <= 40 else f'{text[:39]}…'


def _print_list_json(rows: Iterator[Any], fields: list[str]) -> None:
    separator = '['
    for id, created, accessed, expires, size, *values in rows:
        one = {
            'id': id, 'created': created, 'last_used': accessed,
            'expires': expires, 'bytes': size,
            'fields': dict(zip(fields, values, strict=True)),
        }
        sys.stdout.write(f'{separator}\n  {json.dumps(_json_value(one))}')
        separator = ','
    _print('[]' if separator == '[' else '\n]')


#: Of a record, as ``show`` names them; secret_hash and retired are secret.
_SHOWN = {
    'id': 'id', 'created': 'created', 'started': 'started',
    'last_used': 'accessed', 'expires': 'expires', 'rotated': 'rotated',
    'lifetime': 'lifetime', 'version': 'version',
}


def _show(application: Application, args: argparse.Namespace) -> int:
    c = application.records.table.c
    fields = application.fields.columns
    row = application.read_aside(
        lambda connection: connection.execute(
            sa.select(
                (c.expires > application.now()).label('live'),
                _leniently(c.data),
                *(_leniently(c[name]) for name in _SHOWN.values()),
                *(_leniently(column) for column in fields.values()),
            ).where(c.id == args.id)
        ).first()
    )
    if row is None:
        raise Failure(
            f'there is no session {args.id}; "psessions {args.ini} list" '
            f'shows which there are'
        )
    live, text, *values = row
    record = dict(zip(_SHOWN, values, strict=False))
    record['state'] = 'live' if live else 'expired'
    record['fields'] = dict(
        zip(fields, values[len(_SHOWN):], strict=True)
    )
    return _show_record(application, record, text, as_json=args.json)


def _show_record(
    application: Application, record: dict[str, Any], text: Any,
    *, as_json: bool,
) -> int:
    data: dict[str, Any] | None = None
    damage = ''
    try:
        data, _ = application.codec.read(text if isinstance(text, str) else '')
    except DamagedData as error:
        damage = _line(error)
    else:
        if CSRF in data:
            data[CSRF] = '(not shown)'
    if as_json:
        _print_json({**_json_value(record), 'data': _json_value(data)})
    else:
        _print_record(record, data)
    if data is None:
        _say(f'its data cannot be read: {damage}')
        return 1
    return 0


def _print_record(record: dict[str, Any], data: dict[str, Any] | None) -> None:
    lifetime = record['lifetime']
    words = {
        **record,
        'lifetime': 'by the settings' if lifetime is None else (
            f'{lifetime} seconds' if lifetime else 'fixed'
        ),
    }
    del words['fields']
    _print(_bold('Session'))
    _print_pairs(words)
    if record['fields']:
        _print(_bold('Fields'))
        _print_pairs(record['fields'])
    _print(_bold('Data'))
    if data is None:
        _print('  (damaged)')
    elif not data:
        _print('  (empty)')
    else:
        # repr: types can be told apart, and no control character is left.
        _print(textwrap.indent(pprint.pformat(data, sort_dicts=False), '  '))


def _print_pairs(pairs: dict[str, Any]) -> None:
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        _print(f'  {name.replace("_", " "):<{width}}  {_shown(value)}')


# -- revoke and expire --------------------------------------------------------


def _revoke(application: Application, args: argparse.Namespace) -> int:
    c = application.records.table.c
    live = c.expires > application.now()
    if args.ids:
        return _revoke_ids(application, args, live)
    condition = sa.and_(live, *_where(application, args.fields))
    if args.all and not args.yes and not _is_sure(application):
        raise Failure('nothing was done')
    count = _delete(application, condition, c.id)
    _print(f'{_plural(count, "session", "sessions")} ended')
    return 0


def _revoke_ids(
    application: Application, args: argparse.Namespace, live: Any
) -> int:
    c = application.records.table.c
    gone = []
    count = 0
    table = application.records.table
    for id in dict.fromkeys(args.ids):
        if _execute(application, table.delete().where(c.id == id, live)):
            count += 1
        else:
            gone.append(str(id))
    _print(f'{_plural(count, "session", "sessions")} ended')
    if gone:
        raise Failure(
            f'there is no live session {", ".join(gone)}; "psessions '
            f'{args.ini} list" shows which there are'
        )
    return 0


def _is_sure(application: Application) -> bool:
    count = application.read_aside(
        lambda connection: application.records.count(
            connection, application.now()
        )
    )
    sessions = _plural(count, 'live session', 'live sessions')
    sys.stderr.write(f'End {sessions}, everybody is logged out? [y/N] ')
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ('y', 'yes')


def _expire(application: Application, args: argparse.Namespace) -> int:
    c = application.records.table.c
    now = application.now()
    # The cleaner takes what has swept past alone; this takes all that has
    # expired.  The first condition is for the index: rounding up keeps the
    # order, so it is true whenever the second one is.
    condition = (c.sweep <= application.expiry.sweep(now)) & (c.expires <= now)
    count = _delete(application, condition, c.sweep)
    if count:
        application.notify(SessionsExpired(count))
    _print(
        f'{_plural(count, "expired session was", "expired sessions were")} '
        f'deleted'
    )
    return 0


def _delete(
    application: Application, condition: Any, order: sa.Column[Any]
) -> int:
    """Delete the records in batches, of which each waits for nobody long.

    One statement over a million rows would keep requests from writing, and
    Galera refuses it.
    """
    table = application.records.table
    choose = (
        sa.select(table.c.id).where(condition).order_by(order).limit(_CHOSEN)
    )
    progress = _Progress(
        _count(application, condition) if _Progress.is_wanted() else None
    )
    total = 0
    try:
        while ids := application.read_aside(
            lambda connection: list(connection.scalars(choose))
        ):
            for start in range(0, len(ids), _BATCH):
                statement = table.delete().where(
                    table.c.id.in_(ids[start:start + _BATCH]),
                    # Still: one that was touched meanwhile survives.
                    condition,
                )
                total += _execute(application, statement)
                progress.show(total)
            if len(ids) < _CHOSEN:
                break
    except BaseException as error:
        if total:
            error.add_note(f'{total:,} were deleted before that')
        raise
    finally:
        progress.clear()
    return total


def _count(application: Application, condition: Any) -> int:
    table = application.records.table
    statement = sa.select(sa.func.count()).select_from(table).where(condition)
    return application.read_aside(
        lambda connection: int(connection.scalar(statement) or 0)
    )


def _execute(application: Application, statement: sa.Delete) -> int:
    """Run *statement* in a transaction of its own; return how many rows."""
    return _commit(
        application, lambda connection: connection.execute(statement).rowcount
    )


def _commit(
    application: Application, work: Callable[[sa.Connection], Result]
) -> Result:
    """Return what *work* did in a transaction of its own."""
    pause = 0.05
    for attempt in range(1, _REPETITIONS + 1):
        try:
            with application.connect() as connection:
                if dialects.locks_rows(connection.dialect):
                    # No gap locks on MariaDB, no serialization failures on
                    # PostgreSQL.
                    connection.execution_options(
                        isolation_level='READ COMMITTED'
                    )
                dialects.begin_writing(connection)
                result = work(connection)
                connection.commit()
                return result
        except exc.DBAPIError as error:
            if attempt == _REPETITIONS or not dialects.is_retryable(error):
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError('unreachable')  # pragma: no cover


# -- reencrypt ----------------------------------------------------------------


def _reencrypt(application: Application, args: argparse.Namespace) -> int:
    """Go through the table by the key, in batches.

    Whoever starts it again goes on: what is encrypted with the first key is
    left alone.  No version changes, so that no request in flight notices.
    """
    if not application.settings.encryption_keys:
        raise Failure(
            'sqlasession.encryption_keys is not set, so there is nothing to '
            'encrypt with'
        )
    found = _Reencryption(application)
    progress = _Progress(
        _count(application, sa.true()) if _Progress.is_wanted() else None
    )
    try:
        while rows := found.next_rows():
            found.reencrypt(rows)
            progress.show(found.seen)
    except BaseException as error:
        error.add_note(
            f'{found.done:,} were encrypted before that; run it again to go on'
        )
        raise
    finally:
        progress.clear()
    _print(f'{_plural(found.done, "session was", "sessions were")} encrypted')
    if found.unreadable:
        shown = ', '.join(map(str, found.unreadable[:5]))
        more = ' and others' if len(found.unreadable) > 5 else ''
        raise Failure(
            f'{_plural(len(found.unreadable), "session", "sessions")} cannot '
            f'be read, and stay as they are (is a key missing in '
            f'sqlasession.encryption_keys?): {shown}{more}'
        )
    return 0


class _Reencryption:
    """How far ``reencrypt`` has come."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._table = table = application.records.table
        self._rows = sa.select(table.c.id, table.c.version, table.c.data)
        self._last: Any = None
        #: How many rows were looked at, and how many rewritten.
        self.seen = 0
        self.done = 0
        self.unreadable: list[uuid.UUID] = []

    def next_rows(self) -> Sequence[Any]:
        """Return the rows of the next batch, none at the end."""
        c = self._table.c
        statement = self._rows.order_by(c.id).limit(_REENCRYPTED)
        if self._last is not None:
            statement = statement.where(c.id > self._last)
        rows = self._read(statement)
        if rows:
            self._last = rows[-1].id
        self.seen += len(rows)
        return rows

    def reencrypt(self, rows: Sequence[Any]) -> None:
        """Rewrite *rows*; those that others write meanwhile, again."""
        for _ in range(_REPETITIONS):
            new = self._reencrypted(rows)
            missed = self._write(new) if new else []
            self.done += len(new) - len(missed)
            if not missed:
                return
            # Gone, or written by a process that may not have the new key.
            rows = self._read(self._rows.where(self._table.c.id.in_(missed)))
        raise Failure(
            f'session {missed[0]} is being written all the time; run it again'
        )

    def _read(self, statement: Any) -> Sequence[Any]:
        return self._application.read_aside(
            lambda connection: connection.execute(statement).all()
        )

    def _reencrypted(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what to write, before any row is locked."""
        codec = self._application.codec
        new = []
        for row in rows:
            try:
                if not isinstance(row.data, str):
                    raise DamagedData('no text')
                if not codec.is_current(row.data):
                    new.append({
                        '_id': row.id, '_version': row.version,
                        'data': codec.reencrypted(row.data),
                    })
            except DamagedData:
                self.unreadable.append(row.id)
        return new

    def _write(self, new: list[dict[str, Any]]) -> list[uuid.UUID]:
        """Write in one transaction; return the ids that were missed."""
        c = self._table.c
        statement = self._table.update().where(
            c.id == sa.bindparam('_id'), c.version == sa.bindparam('_version')
        )

        def write(connection: sa.Connection) -> list[uuid.UUID]:
            return [
                values['_id'] for values in new
                if not connection.execute(statement, values).rowcount
            ]

        return _commit(self._application, write)


if __name__ == '__main__':
    sys.exit(main())
