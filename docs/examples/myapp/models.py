"""The application's tables, and ``request.dbsession``."""

import hashlib
import secrets
from typing import Any

from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from sqlalchemy import engine_from_config
from sqlalchemy import ForeignKey
from sqlalchemy import orm
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import relationship
from sqlalchemy.orm import sessionmaker
import zope.sqlalchemy

from pyramid_sqlasession import SessionMixin


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = 'users'

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    salt: Mapped[bytes]
    password: Mapped[bytes]

    def set_password(self, password: str) -> None:
        self.salt = secrets.token_bytes(16)
        self.password = _hash(password, self.salt)

    def check_password(self, password: str) -> bool:
        given = _hash(password, self.salt)
        return secrets.compare_digest(given, self.password)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


class Order(Base):
    __tablename__ = 'orders'

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(64))


# begin UserSession
class UserSession(SessionMixin, Base):
    __tablename__ = 'user_sessions'
    # A column of latin1 cannot hold all that browsers send.
    __table_args__ = {'mariadb_charset': 'utf8mb4', 'mysql_charset': 'utf8mb4'}

    user_id: Mapped[int | None] = mapped_column(
        ForeignKey('users.id', ondelete='CASCADE'), index=True
    )
    user_agent: Mapped[str | None] = mapped_column(String(256))
    ip: Mapped[str | None] = mapped_column(String(45))

    user: Mapped[User | None] = relationship()
# end UserSession


def session_engine(registry: Registry) -> Any:
    return registry['myapp.engine']


def get_tm_session(
    session_factory: sessionmaker[orm.Session],
    transaction_manager: Any,
    request: Request | None = None,
) -> orm.Session:
    dbsession = session_factory(info={'request': request})
    zope.sqlalchemy.register(
        dbsession, transaction_manager=transaction_manager
    )
    return dbsession


def includeme(config: Configurator) -> None:
    settings = config.get_settings()
    settings['tm.manager_hook'] = 'pyramid_tm.explicit_manager'
    config.include('pyramid_tm')
    config.include('pyramid_retry')
    engine = settings.get('dbengine')
    if engine is None:
        engine = engine_from_config(settings, 'sqlalchemy.')
    session_factory = sessionmaker(bind=engine)
    config.registry['dbsession_factory'] = session_factory
    # For session_engine; with dbsession_factory it is not needed.
    config.registry['myapp.engine'] = engine

    def dbsession(request: Request) -> Any:
        given = request.environ.get('app.dbsession')
        if given is not None:
            return given
        return get_tm_session(session_factory, request.tm, request)

    config.add_request_method(dbsession, reify=True)
