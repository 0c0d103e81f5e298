"""The shop's own tables and the way a request gets at them.

Nothing here knows that sessions are kept in the same database: that
``request.dbsession`` exists, bound to ``request.tm``, is all the add-on needs.
"""

from datetime import datetime
from datetime import UTC
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import DateTime
from sqlalchemy import engine_from_config
from sqlalchemy import event
from sqlalchemy import ForeignKey
from sqlalchemy import MetaData
from sqlalchemy import String
from sqlalchemy.engine import Engine
from sqlalchemy.orm import configure_mappers
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import relationship
from sqlalchemy.orm import Session
from sqlalchemy.orm import sessionmaker
from transaction.interfaces import ITransactionManager
import zope.sqlalchemy

SQLITE_PRAGMAS = (
    # Readers and the one writer do not wait for each other.
    'PRAGMA journal_mode = WAL',
    # Two writers do: for this many milliseconds, before one of them fails.
    'PRAGMA busy_timeout = 5000',
    # SQLite checks foreign keys only when asked to.
    'PRAGMA foreign_keys = ON',
)


def utcnow() -> datetime:
    """Return now in UTC without a zone.

    The three databases disagree about what to do with a zone, and none of
    them can misunderstand a value that has none.
    """
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


class Base(DeclarativeBase):
    """The declarative base; named constraints are what Alembic can alter."""

    metadata = MetaData(
        naming_convention={
            'ix': 'ix_%(column_0_label)s',
            'uq': 'uq_%(table_name)s_%(column_0_name)s',
            'fk': 'fk_%(table_name)s_%(column_0_name)s',
            'pk': 'pk_%(table_name)s',
        }
    )


class User(Base):
    """Somebody with an account."""

    __tablename__ = 'users'

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    password: Mapped[str] = mapped_column(String(200))
    joined: Mapped[datetime] = mapped_column(DateTime, default=utcnow)


class Tea(Base):
    """A tea on the shelf; ``slug`` also names its picture."""

    __tablename__ = 'teas'

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(40))
    origin: Mapped[str] = mapped_column(String(80))
    cents: Mapped[int]
    taste: Mapped[str] = mapped_column(String(500))
    degrees: Mapped[int]
    minutes: Mapped[str] = mapped_column(String(10))


class Order(Base):
    """A paid order; its primary key is the number printed on it."""

    __tablename__ = 'orders'

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey('users.id'), index=True)
    placed: Mapped[datetime] = mapped_column(DateTime, default=utcnow)
    lines: Mapped[list['OrderLine']] = relationship(
        cascade='all, delete-orphan', order_by='OrderLine.id'
    )

    @property
    def cents(self) -> int:
        """Return what the order costs."""
        return sum(line.cents * line.quantity for line in self.lines)


class OrderLine(Base):
    """One tea of an order, with name and price as they were that day."""

    __tablename__ = 'order_lines'

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey('orders.id'), index=True)
    tea_id: Mapped[int] = mapped_column(ForeignKey('teas.id'))
    name: Mapped[str] = mapped_column(String(80))
    cents: Mapped[int]
    quantity: Mapped[int]
    tea: Mapped[Tea] = relationship()


configure_mappers()


def get_engine(
    settings: dict[str, Any], prefix: str = 'sqlalchemy.'
) -> Engine:
    """Return the engine that ``settings`` describe."""
    engine = engine_from_config(settings, prefix)
    if engine.dialect.name == 'sqlite':
        event.listen(engine, 'connect', _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def get_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return what makes database sessions, one per request."""
    return sessionmaker(bind=engine)


def get_tm_session(
    session_factory: sessionmaker[Session],
    transaction_manager: ITransactionManager,
    request: Request | None = None,
) -> Session:
    """Return a database session that commits and aborts with a manager."""
    dbsession = session_factory(info={'request': request})
    zope.sqlalchemy.register(
        dbsession, transaction_manager=transaction_manager
    )
    return dbsession


def includeme(config: Configurator) -> None:
    """Register ``request.dbsession`` and the transaction around a request.

    ``dbengine`` in the settings and ``app.dbsession`` in the WSGI environ are
    taken when given: tests hand in what they are going to roll back.
    """
    settings = config.get_settings()
    settings['tm.manager_hook'] = 'pyramid_tm.explicit_manager'
    # pyramid_tm would ask each request who it is from, those for the
    # stylesheet too, and it asks above the exception views, where a database
    # that does not answer cannot be answered for with a page.
    settings['tm.annotate_user'] = False
    config.include('pyramid_tm')
    config.include('pyramid_retry')

    engine = settings.get('dbengine') or get_engine(settings)
    session_factory = get_session_factory(engine)
    config.registry['dbsession_factory'] = session_factory

    def dbsession(request: Request) -> Session:
        given: Session | None = request.environ.get('app.dbsession')
        if given is not None:
            return given
        return get_tm_session(session_factory, request.tm, request)

    config.add_request_method(dbsession, reify=True)
