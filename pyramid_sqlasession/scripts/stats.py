"""``psessions INI stats``: how many sessions, how old, how large."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from pyramid_sqlasession import dialects
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.scripts.options import add_command
from pyramid_sqlasession.scripts.options import add_json
from pyramid_sqlasession.scripts.output import bold
from pyramid_sqlasession.scripts.output import put
from pyramid_sqlasession.scripts.output import put_json
from pyramid_sqlasession.scripts.output import readable_bytes

log = logging.getLogger(__name__)


_AGES = (
    ('5m', '5 minutes', 300),
    ('1h', '1 hour', 3600),
    ('1d', '1 day', 86400),
    ('7d', '7 days', 7 * 86400),
    ('30d', '30 days', 30 * 86400),
)


def add_to(commands: Any) -> None:
    """Add the command to *commands*, argparse's."""
    add_json(add_command(
        commands, 'stats', 'count the sessions, by age and size', run
    ))


def run(application: Application, args: argparse.Namespace) -> int:
    """Count, and print."""
    now = application.now()
    row = application.database.read_aside(
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
        put_json(stats)
    else:
        _print_stats(stats, args.ini)
    return 0


def _aggregates(
    application: Application, dialect: sa.Dialect, now: dt.datetime
) -> sa.Select[Any]:
    """Return one statement that counts everything in one pass."""
    c = application.records.table.c
    live = application.live()

    def count(condition: Any, label: str) -> Any:
        return sa.func.count(sa.case((condition, 1))).label(label)

    # Live ones that are not older; the buckets are the differences.
    ages = [
        count(live & (column > now - dt.timedelta(seconds=age)),
              f'{column.key}_{name}')
        for column in (c.created, c.accessed)
        for name, _, age in _AGES
    ]
    size = dialects.size_of(c.data, dialect)
    return sa.select(
        count(live, 'live'),
        (sa.func.count() - sa.func.count(sa.case((live, 1)))).label('expired'),
        *ages,
        sa.func.max(size).label('largest'),
        sa.func.sum(size).label('total'),
    )


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
    # A table that is partitioned has nothing itself; another one is not in its
    # tree.
    'postgresql': """
        SELECT SUM(pg_table_size(relid)), SUM(pg_indexes_size(relid)) FROM (
            SELECT CAST(:quoted AS regclass) AS relid UNION
            SELECT relid FROM pg_partition_tree(CAST(:quoted AS regclass))
        ) AS parts""",
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
        row = application.database.read_aside(
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
    put(f'{bold("Sessions")} in {stats["table"]}, {stats["database"]}')
    put(f'  live         {stats["live"]:>15,}')
    hint = f'   ("psessions {ini} expire" deletes them)'
    put(
        f'  expired      {stats["expired"]:>15,}'
        + (hint if stats['expired'] else '')
    )
    put()
    put(
        f'{bold("Age")} of the live ones  {"created":>12} {"last used":>15}'
    )
    labels = [f'up to {label}' for _, label, _ in _AGES]
    for name, label in zip(
        stats['created'], [*labels, 'older'], strict=True
    ):
        put(
            f'  {label:<15}{stats["created"][name]:>15,} '
            f'{stats["last_used"][name]:>15,}'
        )
    put()
    put(f'{bold("Size")}')
    for label, count in (
        ('data, average', stats['data']['average']),
        ('data, largest', stats['data']['largest']),
        ('data, total', stats['data']['total']),
        ('table on disk', stats['disk']['table']),
        ('indexes on disk', stats['disk']['indexes']),
    ):
        shown = 'not known' if count is None else readable_bytes(count)
        put(f'  {label:<15}{shown:>13}')
