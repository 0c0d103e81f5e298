"""One statement by the module ``sqlite3``."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import datetime as dt
from operator import itemgetter
from typing import Any
import uuid

import sqlalchemy as sa

from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.model import UTCDateTime
from pyramid_sqlasession.statements import as_is
from pyramid_sqlasession.statements import compile_for
from pyramid_sqlasession.statements import Compiled
from pyramid_sqlasession.statements import Convert
from pyramid_sqlasession.statements import parameters_of
from pyramid_sqlasession.statements import places_of
from pyramid_sqlasession.statements import Row
from pyramid_sqlasession.statements import row_of
from pyramid_sqlasession.statements import selected_by
from pyramid_sqlasession.statements import Uncommon

_TWO_DIGITS = [f'{number:02}' for number in range(60)]


def _moment_to_text(value: dt.datetime) -> str:
    # As SQLAlchemy stores it, to the letter: SQLite compares texts.
    if value.tzinfo is not dt.UTC:
        value = value.astimezone(dt.UTC)
    # isoformat() and an f-string take twice as long; and each number that is
    # looked up, and not written, saves a tenth.
    two = _TWO_DIGITS
    return '%04d-%s-%s %s:%s:%s.%06d' % (  # noqa: UP031
        value.year, two[value.month], two[value.day], two[value.hour],
        two[value.minute], two[value.second], value.microsecond,
    )


def _moment_from_text(text: Any) -> dt.datetime:
    # One that has a zone already is none of ours, and an error here.
    return dt.datetime.fromisoformat(text + '+00:00')


# For bytes, as for None, sqlite3 asks who has registered an adapter, which
# takes as long as the rest of a parameter; for a bytearray it does not.
_ON_SQLITE: dict[type, tuple[Convert, Convert]] = {
    PublicId: (
        lambda value: bytearray(value.bytes),
        lambda raw: uuid.UUID(bytes=raw),
    ),
    UTCDateTime: (_moment_to_text, _moment_from_text),
    sa.LargeBinary: (bytearray, as_is),
    **dict.fromkeys(
        (sa.Text, sa.String, sa.Integer, sa.SmallInteger, sa.BigInteger),
        (as_is, as_is),
    ),
}


class SQLite:
    """The module ``sqlite3``."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self._dialect = dialect
        # Of the module that the engine was given, it may be (pysqlite3).
        self._plain = getattr(dialect.loaded_dbapi, 'Connection', None)

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with question marks."""
        compiled, types = compile_for(statement, self._dialect, names)
        if not {type(kind) for kind in types.values()} <= _ON_SQLITE.keys():
            raise Uncommon
        order = list(compiled.positiontup)
        columns = list(selected_by(statement))
        return Compiled(
            compiled.string,
            itemgetter(*order),
            places_of(_ON_SQLITE[type(types[name])][0] for name in order),
            len(columns),
            places_of(_ON_SQLITE[type(one.type)][1] for one in columns),
        )

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row."""
        driver = pooled.dbapi_connection
        # What wraps it, for tracing say, may call itself one.
        if type(driver) is not self._plain or (
            driver.in_transaction and not inside
        ):
            raise Uncommon
        # By its key there is one row: the driver sees so at once, and nothing
        # stays open that would keep the log from being emptied.
        row = driver.execute(
            compiled.text, parameters_of(compiled, values)
        ).fetchone()
        return None if row is None else row_of(compiled, row)

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written."""
        driver = pooled.dbapi_connection
        if type(driver) is not self._plain:
            # A creator= has wrapped it, for SQLAlchemy's use: one that hands
            # on what is asked for may keep what is set (isolation_level).
            raise Uncommon
        sent = parameters_of(compiled, values)
        if inside:
            return int(driver.execute(compiled.text, sent).rowcount)
        if driver.in_transaction:
            raise Uncommon
        # The driver would send BEGIN and COMMIT, and compile them each time;
        # a statement alone is all or nothing as well.
        level, driver.isolation_level = driver.isolation_level, None
        try:
            return int(driver.execute(compiled.text, sent).rowcount)
        finally:
            driver.isolation_level = level
