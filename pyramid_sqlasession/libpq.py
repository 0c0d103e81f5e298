"""One statement on PostgreSQL, by libpq in psycopg's own binding of it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
from dataclasses import dataclass
import datetime as dt
import hashlib
from operator import itemgetter
import struct
import sys
from typing import Any
import uuid

import sqlalchemy as sa

from pyramid_sqlasession import faults
from pyramid_sqlasession.model import PublicId
from pyramid_sqlasession.model import UTCDateTime
from pyramid_sqlasession.statements import compile_for
from pyramid_sqlasession.statements import Compiled
from pyramid_sqlasession.statements import Convert
from pyramid_sqlasession.statements import parameters_of
from pyramid_sqlasession.statements import places_of
from pyramid_sqlasession.statements import Row
from pyramid_sqlasession.statements import row_of
from pyramid_sqlasession.statements import selected_by
from pyramid_sqlasession.statements import Uncommon

# Where a pooled connection keeps what was prepared on it: it goes with the
# connection.
_INFO = 'sqlasession.statements'

_IDLE = 0  # PQTRANS_IDLE
_IN_TRANSACTION = 2  # PQTRANS_INTRANS
_COMMAND_OK = 1
_TUPLES_OK = 2
_BINARY = 1

# As libpq has it; psycopg itself deallocates after a ROLLBACK.
_NOT_PREPARED = {state.encode() for state in faults.NOT_PREPARED}
_SQLSTATE = 67  # PG_DIAG_SQLSTATE: 'C'

_MILLENNIUM = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_int64 = struct.Struct('>q')


def _moment_to_binary(value: dt.datetime) -> bytes:
    return _int64.pack((value - _MILLENNIUM) // _MICROSECOND)


def _moment_from_binary(raw: bytes) -> dt.datetime:
    # By place: five of these are in each record, and names cost a third.
    return _MILLENNIUM + dt.timedelta(0, 0, _int64.unpack(raw)[0])


def _int_from_binary(raw: bytes) -> int:
    return int.from_bytes(raw, 'big', signed=True)


#: type -> (its oid, is it sent in binary, to the driver, from it).  An int is
#: sent as text, as its length in binary is the column's affair; a text in
#: binary, as libpq would end it at a NUL.
_ON_POSTGRESQL: dict[type, tuple[int, bool, Convert, Convert]] = {
    PublicId: (
        2950, True, lambda value: value.bytes,
        lambda raw: uuid.UUID(bytes=raw),
    ),
    UTCDateTime: (1184, True, _moment_to_binary, _moment_from_binary),
    sa.LargeBinary: (17, True, bytes, bytes),
    sa.Text: (25, True, str.encode, bytes.decode),
    sa.String: (1043, True, str.encode, bytes.decode),
    sa.Integer: (
        23, False, lambda value: b'%d' % value, _int_from_binary
    ),
    sa.SmallInteger: (
        21, False, lambda value: b'%d' % value, _int_from_binary
    ),
    sa.BigInteger: (
        20, False, lambda value: b'%d' % value, _int_from_binary
    ),
}


class Psycopg:
    """psycopg's own binding of libpq (``psycopg.pq``).

    A statement is prepared as psycopg prepares it: at the sixth use of a
    connection (``prepare_threshold``), or never (None).  Inside of a
    transaction it is not: psycopg deallocates what is prepared after each
    ROLLBACK, and to be told so there would cost the transaction.
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        import psycopg

        self._dialect = dialect
        self._psycopg = psycopg
        self._plain = psycopg.Connection
        self._cursor = psycopg.Cursor

    def compile(self, statement: Any, names: Iterable[str]) -> Compiled:
        """Return *statement* with ``$1`` instead of names."""
        compiled, types = compile_for(statement, self._dialect, names)
        converts, formats, places = [], [], {}
        for place, (name, kind) in enumerate(types.items(), 1):
            if type(kind) not in _ON_POSTGRESQL:
                raise Uncommon
            _, is_binary, convert, _ = _ON_POSTGRESQL[type(kind)]
            converts.append(convert)
            formats.append(int(is_binary))
            places[name] = f'${place}'
        columns = [column.type for column in selected_by(statement)]
        # psycopg's form is that of the operator %.
        text = (compiled.string % places).encode()
        return _Prepared(
            text,
            itemgetter(*types),
            places_of(converts),
            len(columns),
            places_of(_ON_POSTGRESQL[type(kind)][3] for kind in columns),
            tuple(_ON_POSTGRESQL[type(kind)][0] for kind in columns),
            b'sqlasession_' + hashlib.sha256(text).hexdigest()[:16].encode(),
            formats,
        )

    def fetch(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> Row | None:
        """Return the only row, read in binary."""
        result = self._execute(pooled, compiled, values, inside, _TUPLES_OK)
        if not result.ntuples:
            return None
        get = result.get_value
        return row_of(compiled, [get(0, n) for n in range(compiled.width)])

    def write(
        self, pooled: Any, compiled: Compiled, values: Mapping[str, Any],
        *, inside: bool,
    ) -> int:
        """Return how many rows were written; without BEGIN, committed."""
        result = self._execute(pooled, compiled, values, inside, _COMMAND_OK)
        return int(result.command_tuples or 0)

    def _execute(
        self, pooled: Any, compiled: Any, values: Mapping[str, Any],
        inside: bool, wanted: int,
    ) -> Any:
        """Return a result of the status *wanted*; each question of libpq
        costs as much as a column.
        """
        driver = pooled.dbapi_connection
        # What wraps it, for tracing say, may hand on what is asked for, and
        # then would not see the statement; nor would another cursor.
        if type(driver) is not self._plain or (
            driver.cursor_factory is not self._cursor
        ):
            raise Uncommon
        pgconn = driver.pgconn
        sent = parameters_of(compiled, values)
        if pgconn.transaction_status != (_IN_TRANSACTION if inside else _IDLE):
            # psycopg sends BEGIN with the first statement of its own.
            raise Uncommon
        if pgconn.parameter_status(b'client_encoding') != b'UTF8':
            # Each time: any statement can set it.
            raise Uncommon
        if not inside:
            uses = pooled.info.setdefault(_INFO, {})
            result = self._execute_prepared(
                driver, uses, compiled, sent, wanted
            )
            if result is not None:
                return result
        result = pgconn.exec_params(
            compiled.text, sent, None, compiled.formats, _BINARY
        )
        if result.status != wanted:
            raise self._error(pgconn, result)
        if not _has_types(result, compiled):
            raise Uncommon
        return result

    def _execute_prepared(
        self, driver: Any, uses: dict[bytes, Any], compiled: Any,
        sent: list[Any], wanted: int,
    ) -> Any:
        """Return the result, None if it is not prepared.

        :param uses: of each statement how often it was used, or None if it is
            prepared.
        """
        pgconn, name = driver.pgconn, compiled.name
        count = uses.get(name, 0)
        if count is None:
            result = pgconn.exec_prepared(
                name, sent, compiled.formats, _BINARY
            )
            if result.status == wanted:
                return result
            if result.error_field(_SQLSTATE) not in _NOT_PREPARED:
                raise self._error(pgconn, result)
            count = 0
        threshold = driver.prepare_threshold
        if threshold is not None and count >= threshold:
            result = pgconn.prepare(name, compiled.text)
            if result.status == _COMMAND_OK:
                uses[name] = None
                result = pgconn.exec_prepared(
                    name, sent, compiled.formats, _BINARY
                )
                if result.status != wanted:
                    raise self._error(pgconn, result)
                if not _has_types(result, compiled):
                    # Nor is it used as it is prepared.
                    uses[name] = -sys.maxsize
                    raise Uncommon
                return result
            if result.error_field(_SQLSTATE) is None:
                # The connection is lost: nothing more would be said of why.
                raise self._error(pgconn, result)
            # There is one of the name: it was made behind a pooler that
            # gives us another server each time.
            count = -sys.maxsize
        uses[name] = count + 1
        return None

    def _error(self, pgconn: Any, result: Any) -> Exception:
        errors = self._psycopg.errors
        state = (result.error_field(_SQLSTATE) or b'').decode()
        kind: type[Exception] = self._psycopg.DatabaseError
        said = result.error_message
        if not state:
            # libpq's own words: the connection is lost.  The result is its
            # last one; the server's last words, which say why, came before.
            kind = self._psycopg.OperationalError
            said = pgconn.error_message or said
        else:
            with contextlib.suppress(KeyError):
                kind = errors.lookup(state)
        text = said.decode(errors='replace').strip()
        return kind(text, info=result)  # type: ignore[call-arg]


@dataclass(frozen=True)
class _Prepared(Compiled):
    #: The type that a column must have on the server.
    oids: tuple[int, ...]
    #: Under which it is prepared.
    name: bytes
    #: 1 = binary, of each parameter.  A list: psycopg 3.1 takes no tuple.
    formats: list[int]


def _has_types(result: Any, compiled: _Prepared) -> bool:
    # Not so of a table that was made otherwise; what is prepared keeps its
    # types.  No all(...), which takes twice as long.
    for number, oid in enumerate(compiled.oids):
        if result.ftype(number) != oid:
            return False
    return True
