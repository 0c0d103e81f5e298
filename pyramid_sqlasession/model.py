"""The table: the types of its columns, :class:`SessionMixin`, the generated
model, additional fields.

Needs no Configurator, so that Alembic and scripts can build the same table
from settings alone.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import datetime as dt
from typing import Any
import uuid

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import MappedAsDataclass
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import registry
from sqlalchemy.types import TypeDecorator
from sqlalchemy.types import TypeEngine

from pyramid_sqlasession.declarations import Field
from pyramid_sqlasession.declarations import read_fields
from pyramid_sqlasession.declarations import TABLE_COLUMNS
from pyramid_sqlasession.declarations import TAKEN
from pyramid_sqlasession.dialects import MYSQL
from pyramid_sqlasession.settings import Settings


class PublicId(TypeDecorator[uuid.UUID]):
    """A UUID in 16 bytes: ``uuid`` on PostgreSQL, binary elsewhere."""

    impl = sa.LargeBinary(16)
    cache_ok = True

    @property
    def python_type(self) -> type[uuid.UUID]:
        return uuid.UUID

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name == 'postgresql':
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        if dialect.name in MYSQL:
            # sa.Uuid would be CHAR(32) on MySQL, which is twice as long and
            # compared by a collation.
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(sa.LargeBinary(16))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if isinstance(value, str):
            # As ``session.id`` has it.
            value = uuid.UUID(value)
        if value is None or dialect.name == 'postgresql':
            return value
        return value.bytes

    def process_result_value(
        self, value: Any, dialect: sa.Dialect
    ) -> uuid.UUID | None:
        if value is None or isinstance(value, uuid.UUID):
            return value
        if isinstance(value, str) and dialect.name == 'postgresql':
            # By a loader of the application's. On SQLite it is damage.
            return uuid.UUID(value)
        # Of a number, bytes() would make some.
        return uuid.UUID(bytes=bytes(memoryview(value)))


class StoredId(PublicId):
    """Reads and binds a damaged id of SQLite, which keeps any value, too.

    Whoever looks for rows, to delete them say, gets past such a one.
    """

    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name == 'sqlite':
            # LargeBinary takes bytes alone.
            return dialect.type_descriptor(sa.types.NullType())
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if not isinstance(value, uuid.UUID):
            return value
        return super().process_bind_param(value, dialect)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        try:
            return super().process_result_value(value, dialect)
        except (TypeError, ValueError):
            return value


class UTCDateTime(TypeDecorator[dt.datetime]):
    """An aware datetime in UTC, to the microsecond, on every database.

    PostgreSQL has a type for it; elsewhere UTC is stored without a zone, so
    that the time zone of server, connection and process never matters.  A
    naive datetime is taken as UTC for the same reason.
    """

    impl = sa.DateTime()
    cache_ok = True

    @property
    def python_type(self) -> type[dt.datetime]:
        return dt.datetime

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name == 'postgresql':
            return dialect.type_descriptor(sa.DateTime(timezone=True))
        if dialect.name in MYSQL:
            # Without fsp it would be cut to the second.
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            value = value.replace(tzinfo=dt.UTC)
        if dialect.name == 'postgresql':
            return value
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: Any, dialect: sa.Dialect
    ) -> dt.datetime | None:
        if value is None:
            return None
        if not isinstance(value, dt.datetime):
            # MariaDB's zero date.
            raise ValueError(f'{value!r} is no moment')
        if value.tzinfo is None:
            return value.replace(tzinfo=dt.UTC)
        return value.astimezone(dt.UTC)


class Span(sa.Interval):
    """An Interval to the microsecond on MariaDB and MySQL."""

    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        return mysql.DATETIME(fsp=6)


_HASH = sa.LargeBinary(32).with_variant(mysql.BINARY(32), *MYSQL)
_RETIRED = sa.LargeBinary(1024).with_variant(mysql.VARBINARY(1024), *MYSQL)
_LONGEST_VARBINARY = 255
# The default collation takes 'aB3' and 'Ab3' for the same.
_EXACTLY = {'charset': 'utf8mb4', 'collation': 'utf8mb4_bin'}
# TEXT of MariaDB ends at 64 KiB.
_DATA = sa.Text().with_variant(mysql.LONGTEXT(**_EXACTLY), *MYSQL)


class SessionMixin:
    """Declarative mixin with the columns that a session record needs.

    Every further column of the class that the database does not compute is
    an additional field: it takes the value that the session has under its
    name.

    .. code-block:: python

        class UserSession(SessionMixin, Base):
            __tablename__ = 'sessions'
            user_id: Mapped[int | None] = mapped_column(
                ForeignKey('users.id', ondelete='CASCADE'), index=True)

    On SQLite ``CASCADE`` needs ``PRAGMA foreign_keys = ON``.
    """

    #: Public, stable, safe to show and to log.
    id: Mapped[uuid.UUID] = mapped_column(PublicId, primary_key=True)
    #: SHA-256 of the secret half of the token.
    secret_hash: Mapped[bytes] = mapped_column(_HASH)
    #: Hashes of tokens that were replaced lately.
    retired: Mapped[bytes | None] = mapped_column(_RETIRED)
    #: Counts the writes; each write is guarded by the version it read.
    version: Mapped[int] = mapped_column(sa.BigInteger)
    #: What the session holds, as the serializer wrote it.
    data: Mapped[str] = mapped_column(_DATA)
    #: When the session began; a login does not change it.
    created: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    #: Creation or last login: the absolute timeout counts from here.
    started: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    #: When the expiry was last extended.
    accessed: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    #: When the current token was handed out.
    rotated: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    #: When the session ends.  Not indexed on purpose: see ``sweep``.
    expires: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    #: ``expires``, rounded up coarsely.  The cleaner finds its rows by it.
    #: An index on ``expires`` itself would have to be written by every
    #: touch; this one changes once in many touches, so that PostgreSQL
    #: updates the row in place (HOT), with far less WAL, and the index stays
    #: untouched.  Without any index each tick of the cleaner would read
    #: the whole table.  Measured at a million rows (``make bench-touch``;
    #: docs/performance.rst has the figures).
    sweep: Mapped[dt.datetime] = mapped_column(UTCDateTime, index=True)
    #: Of this session only: NULL = by the settings, 0 = ``expires`` is
    #: fixed, above = sliding by so many seconds.
    lifetime: Mapped[int | None] = mapped_column(sa.Integer)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if issubclass(cls, MappedAsDataclass):
            # SQLAlchemy's own error would tell to change this mixin.
            raise TypeError(
                f'{cls.__qualname__}: a class on SessionMixin cannot be a '
                f'dataclass, which MappedAsDataclass makes of it: give it a '
                f'second base beside yours, which shares its tables: class '
                f'PlainBase(DeclarativeBase): registry = Base.registry'
            )
        super().__init_subclass__(**kwargs)


def session_model(
    base_or_metadata: type[Any] | sa.MetaData,
    table_name: str = 'sessions',
    fields: str | Mapping[str, Any] | Iterable[str | Field] = (),
    schema: str | None = None,
) -> type[Any]:
    """Return a mapped class with the table of the sessions.

    Called again with the same arguments it returns the same class.

    For Alembic and scripts: it is what the application itself builds from
    its settings.

    :param base_or_metadata: a declarative base class, or a ``MetaData``.
    :param fields: the additional fields, as in the setting
        ``additional_fields``.
    :raises ConfigurationError: for a field that cannot be made, and for the
        name of another table.
    :raises TypeError: for another base.
    """
    parsed = read_fields(fields)
    base = _base_of(base_or_metadata)
    made = base.metadata.info.setdefault('sqlasession', {})
    key = (schema, table_name, tuple(map(repr, parsed)))
    if key in made:
        # Alembic's env.py runs several times in a test suite.
        return made[key]  # type: ignore[no-any-return]
    place = schema or base.metadata.schema
    full_name = f'{place}.{table_name}' if place else table_name
    if full_name in base.metadata.tables:
        raise ConfigurationError(
            f'session_model(table_name={full_name!r}): the MetaData has a '
            f'table of this name with other columns; give the sessions '
            f'another name, or call session_model with the same fields again'
        )
    # Of its own name: a base may have several.
    name = f'Session_{schema or ""}_{table_name}'
    model = made[key] = type(
        name, (SessionMixin, base), _attributes(table_name, schema, parsed)
    )
    return model


def _attributes(
    table_name: str, schema: str | None, fields: Iterable[Field]
) -> dict[str, Any]:
    """Return what the class of a generated model has beside the mixin's."""
    return {
        '__tablename__': table_name,
        '__table_args__': {
            'schema': schema, 'mysql_engine': 'InnoDB',
            'mysql_charset': 'utf8mb4',
            'mariadb_engine': 'InnoDB', 'mariadb_charset': 'utf8mb4',
        },
        '__module__': __name__,
        '__doc__': 'The generated model of the sessions.',
        **{
            one.name: mapped_column(
                _with_variant(_column_type(one)), index=one.index or None,
                unique=one.unique or None, nullable=one.nullable,
            )
            for one in fields
        },
    }


def _base_of(base_or_metadata: Any) -> Any:
    """Return the class to build the model on.

    :raises TypeError: for what is neither a base class nor a ``MetaData``.
    """
    if isinstance(base_or_metadata, sa.MetaData):
        return registry(metadata=base_or_metadata).generate_base()
    if not isinstance(base_or_metadata, type) or not hasattr(
        base_or_metadata, 'metadata'
    ):
        raise TypeError(
            f'a declarative base class or a MetaData is needed, not '
            f'{base_or_metadata!r}'
        )
    base: Any = base_or_metadata
    is_dataclass = issubclass(base_or_metadata, MappedAsDataclass)
    # The mixin cannot be one.
    return base.registry.generate_base() if is_dataclass else base


def model_of(settings: Settings) -> type[Any]:
    """Return the application's own model, or generate one.

    :raises ConfigurationError: if ``sqlasession.model`` is none.
    """
    model = settings.model
    if model is None:
        return session_model(
            sa.MetaData(), settings.table_name, settings.additional_fields,
            settings.schema,
        )
    mapper = sa.inspect(model, raiseerr=False)
    if not isinstance(model, type) or mapper is None:
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: must be a mapped class built on '
            f'pyramid_sqlasession.SessionMixin'
        )
    _check_mapper(model, mapper)
    _check_columns(model, mapper)
    _check_fields(model)
    return model


def _check_columns(model: type[Any], mapper: Mapper[Any]) -> None:
    """Refuse a model whose own columns are not those of the mixin."""
    if not isinstance(mapper.local_table, sa.Table):
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: is not mapped to a Table; build '
            f'the class on pyramid_sqlasession.SessionMixin'
        )
    missing = [
        name for name in TABLE_COLUMNS if name not in mapper.column_attrs
    ]
    if missing:
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: the column '
            f'{", ".join(missing)} is missing; build the class on '
            f'pyramid_sqlasession.SessionMixin'
        )
    for name in TABLE_COLUMNS:
        column = mapper.column_attrs[name].columns[0]
        if column.key != name:
            raise ConfigurationError(
                f'sqlasession.model = {model!r}: the column of {name!r} has '
                f'the key {column.key!r}, by which it is not found: add '
                f'key={name!r} to its mapped_column(...)'
            )
        if not _has_our_type(column, name):
            raise ConfigurationError(
                f'sqlasession.model = {model!r}: the column of {name!r} is '
                f'not that of SessionMixin, but of type {column.type!r}: '
                f'name SessionMixin first among the bases of the class, as '
                f'another one has a column of this name'
            )


def _check_fields(model: type[Any]) -> None:
    """Refuse additional fields that cannot be used, or must not be."""
    fields = fields_of(model)
    for name, column in fields.items():
        if _can_run_code(column.type):
            raise ConfigurationError(
                f'sqlasession.model = {model!r}: the type of {name!r} '
                f'{_RUNS_CODE}'
            )
    for name in fields.keys() & TAKEN.keys():
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: {name!r} {TAKEN[name]}: give '
            f'the attribute another name, as in other = '
            f'mapped_column({name!r}, ...)'
        )


def _has_our_type(column: sa.ColumnElement[Any], name: str) -> bool:
    """Return whether *column* takes and gives what the mixin's does."""
    ours = getattr(SessionMixin, name).column.type
    # Of the others a type of the application's may do as well.
    return not isinstance(ours, sa.TypeDecorator) or isinstance(
        column.type, type(ours)
    )


def _check_mapper(model: type[Any], mapper: Mapper[Any]) -> None:
    """Refuse a model whose records are more than the row that is written."""
    if len(mapper.tables) > 1:
        names = ', '.join(table.name for table in mapper.tables)
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: is mapped to the tables '
            f'{names}, but a session is a row of one table: build the class '
            f'on pyramid_sqlasession.SessionMixin itself, with all its '
            f'columns in its own table'
        )
    if mapper.polymorphic_on is not None:
        raise ConfigurationError(
            f'sqlasession.model = {model!r}: has polymorphic_on = '
            f'{mapper.polymorphic_on}, which would be NULL, as sessions are '
            f'written without a mapper: take it out of __mapper_args__'
        )


def table_of(model: type[Any]) -> sa.Table:
    """Return the table that *model* is mapped to."""
    table = sa.inspect(model).local_table
    assert isinstance(table, sa.Table)
    return table


def fields_of(model: type[Any]) -> dict[str, sa.Column[Any]]:
    """Return the additional fields of *model*: attribute name to column.

    Columns that the database computes are none.
    """
    mapper = sa.inspect(model)
    return {
        attribute.key: attribute.columns[0]
        for attribute in mapper.column_attrs
        if attribute.key not in TABLE_COLUMNS
        and isinstance(attribute.columns[0], sa.Column)
        and attribute.columns[0].computed is None
        and attribute.columns[0].identity is None
    }


_RUNS_CODE = (
    'must not be able to run code (a pickle does): whoever can write to the '
    'table could run theirs here. Take JSON'
)


def _can_run_code(type_: Any) -> bool:
    """Return whether what *type_* reads is a pickle (R6)."""
    while isinstance(type_, TypeDecorator):
        if isinstance(type_, sa.PickleType):
            return True
        type_ = type_.impl_instance
    return False


def _column_type(field: Field) -> TypeEngine[Any]:
    type_ = _made_type(field)
    if _can_run_code(type_):
        raise field.error(_RUNS_CODE)
    return type_


def _made_type(field: Field) -> TypeEngine[Any]:
    kind = field.type
    if isinstance(kind, str):
        kind = _named_type(field, kind)
    if isinstance(kind, TypeEngine):
        if field.args or field.kwargs:
            raise field.error(f'{field.type!r} takes no arguments')
        return kind
    if not (isinstance(kind, type) and issubclass(kind, TypeEngine)):
        raise field.error(f'{field.type!r} is not a type of SQLAlchemy')
    try:
        return kind(*field.args, **dict(field.kwargs))
    except Exception as error:
        raise field.error(
            f'{field.type} cannot be made with these arguments: {error}'
        ) from error


def _with_variant(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return *type_* with what it takes on MariaDB and MySQL to keep and to
    find its values as other databases do.

    A subclass is left as it is, as is what somebody has chosen themselves.
    """
    make = _ON_MYSQL.get(type(type_))
    variant = make(type_) if make is not None else None
    if variant is None or type_._variant_mapping.keys() & {*MYSQL}:
        return type_
    return type_.with_variant(variant, *MYSQL)


def _exact_varchar(type_: Any) -> TypeEngine[Any] | None:
    if type_.length is None or type_.collation is not None:
        return None
    return mysql.VARCHAR(type_.length, **_EXACTLY)


def _exact_char(type_: Any) -> TypeEngine[Any] | None:
    if type_.collation is not None:
        return None
    return mysql.CHAR(type_.length, **_EXACTLY)


def _exact_text(type_: Any) -> TypeEngine[Any] | None:
    if type_.collation is not None:
        return None
    return mysql.LONGTEXT(**_EXACTLY)


def _blob(type_: Any) -> TypeEngine[Any]:
    # BLOB(16) would become a TINYBLOB, which Alembic takes for another type.
    # (All columns that are no blobs share 64 KiB.)
    if type_.length is not None and type_.length <= _LONGEST_VARBINARY:
        return mysql.VARBINARY(type_.length)
    return mysql.LONGBLOB()


def _double(type_: Any) -> TypeEngine[Any] | None:
    # FLOAT keeps 7 digits of a float, which is not found again then.
    if type_.precision is not None:
        return None
    return mysql.DOUBLE(asdecimal=type_.asdecimal)


def _long_numeric(type_: Any) -> TypeEngine[Any] | None:
    # NUMERIC alone has no digit after the point.
    if type_.precision is not None:
        return None
    return mysql.NUMERIC(65, 30, asdecimal=type_.asdecimal)


def _exact_moment(type_: Any) -> TypeEngine[Any]:
    # Without fsp it ends at the second; so does TIME.
    return mysql.DATETIME(fsp=6)


def _exact_time(type_: Any) -> TypeEngine[Any]:
    return mysql.TIME(fsp=6)


def _old_uuid(type_: Any) -> TypeEngine[Any]:
    # From SQLAlchemy 2.1 on it is MariaDB's own UUID, whose text does not fit
    # the CHAR(32) that 2.0 has made; that one's fits both.
    return sa.Uuid(type_.as_uuid, native_uuid=False)


_ON_MYSQL: dict[type, Callable[[Any], TypeEngine[Any] | None]] = {
    sa.String: _exact_varchar, sa.Unicode: _exact_varchar,
    sa.VARCHAR: _exact_varchar, sa.NVARCHAR: _exact_varchar,
    sa.CHAR: _exact_char, sa.NCHAR: _exact_char,
    sa.Text: _exact_text, sa.UnicodeText: _exact_text, sa.TEXT: _exact_text,
    sa.LargeBinary: _blob, sa.BLOB: _blob,
    sa.Float: _double, sa.FLOAT: _double, sa.REAL: _double,
    sa.Numeric: _long_numeric, sa.NUMERIC: _long_numeric,
    sa.DECIMAL: _long_numeric,
    sa.DateTime: _exact_moment, sa.DATETIME: _exact_moment,
    # Theirs is converted by the connection's time zone, which may have no such
    # hour, and ends in 2038.
    sa.TIMESTAMP: _exact_moment,
    sa.Time: _exact_time, sa.TIME: _exact_time,
    sa.Interval: lambda type_: Span(), sa.Uuid: _old_uuid,
}


def _named_type(field: Field, name: str) -> Any:
    if '.' not in name and ':' not in name:
        found = getattr(sa, name, None)
        if found is None:
            raise field.error(
                f'{name!r} is not a name in sqlalchemy; write it as there '
                f'(Integer, String, BigInteger, …) or as a dotted name'
            )
        return found
    try:
        return DottedNameResolver(None).resolve(name)
    except Exception as error:
        raise field.error(
            f'the type {name!r} cannot be imported '
            f'({type(error).__name__}: {error})'
        ) from error
