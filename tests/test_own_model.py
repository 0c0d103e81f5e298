"""A model of the application's own, whose columns are fields (D3)."""

import datetime as dt
from decimal import Decimal
import enum
import time
from typing import Any
import uuid

from pyramid.config import Configurator
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.cleaner import Cleaner
from pyramid_sqlasession.model import UTCDateTime

from .failing import on_sqlite
from .fields import field
from .fields import refused
from .fields import run


@pytest.fixture
def own(make_site):
    """A site whose sessions belong to users, with a foreign key."""

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = 'users'
        id: Mapped[int] = mapped_column(primary_key=True)

    class UserSession(SessionMixin, Base):
        __tablename__ = 'user_sessions'
        user_id: Mapped[int | None] = mapped_column(
            sa.ForeignKey('users.id', ondelete='CASCADE'), index=True
        )
        label: Mapped[str] = mapped_column(sa.String(20), default='none')
        role: Mapped[str | None] = mapped_column(
            sa.String(20), server_default='guest'
        )
        visits: Mapped[int] = mapped_column('visit_count', default=lambda: 1)

    site = make_site(model=UserSession, create=False)
    Base.metadata.create_all(site.outside)
    site.execute('INSERT INTO users (id) VALUES (7)')
    return site


def test_own_model_fills_its_columns(own):
    """D3: extra columns of the application's class are fields."""

    def view(request):
        request.session.update(user_id=7, label='phone', visits=3)

    run(own, view)
    assert field(own, 'user_id') == 7
    assert field(own, 'label') == 'phone'
    assert field(own, 'visit_count') == 3


def test_own_model_keeps_what_the_session_does_not_hold(own):
    """D3: a save resets no column that somebody else has filled."""

    def view(request):
        request.session['n'] = request.session.get('n', 0) + 1

    browser = run(own, view)
    own.execute("UPDATE user_sessions SET label = 'seen', role = 'guard'")
    run(own, view, browser)
    assert (field(own, 'label'), field(own, 'role')) == ('seen', 'guard')


@pytest.mark.parametrize(('asked', 'stored'), [(None, None), (90, 90)])
def test_a_default_of_a_column_of_ours_does_not_count(
    make_site, asked, stored
):
    """E1: a session lives as long as the settings, or the view, say."""

    class Base(DeclarativeBase):
        pass

    class UserSession(SessionMixin, Base):
        __tablename__ = 'user_sessions'
        lifetime: Mapped[int | None] = mapped_column(
            default=60, server_default='60'
        )

    site = make_site(model=UserSession, create=False)
    Base.metadata.create_all(site.outside)

    def view(request):
        request.session['a'] = 1
        request.session.set_expiry(asked)

    run(site, view)
    assert field(site, 'lifetime') == stored


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
@pytest.mark.parametrize('ondelete', [None, 'RESTRICT', 'CASCADE', 'SET NULL'])
def test_rows_that_refer_to_a_session(make_site, caplog, ondelete):
    """E3, D3: a key that lets no session be deleted is told of, loudly."""

    class Base(DeclarativeBase):
        pass

    class UserSession(SessionMixin, Base):
        __tablename__ = 'user_sessions'

    class Visit(Base):
        __tablename__ = 'visits'
        number: Mapped[int] = mapped_column(primary_key=True)
        session_id: Mapped[Any] = mapped_column(
            sa.ForeignKey('user_sessions.id', ondelete=ondelete), nullable=True
        )

    site = make_site(
        model=UserSession, create=False, check_expiration_interval='1d'
    )
    works = ondelete in ('CASCADE', 'SET NULL')
    advised = [m for m in caplog.messages if m.startswith('visits refers to')]
    assert bool(advised) is not works
    Base.metadata.create_all(site.outside)
    run(site, lambda request: request.session.update(n=1))
    site.execute(
        'INSERT INTO visits (number, session_id) '
        'SELECT 1, id FROM user_sessions'
    )
    site.clock.advance(days=3)
    cleaner = site.application.cleaner
    if works:
        assert cleaner.clean() == 1
        return
    with pytest.raises(sa.exc.IntegrityError):
        cleaner.clean()
    stop_expiring_sessions(site.app)
    caplog.clear()
    hasty = Cleaner(site.application)
    hasty._interval = 0.01
    hasty.start()
    end = time.monotonic() + 20
    while len(caplog.messages) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    hasty.stop()
    said = {(r.levelname, r.getMessage()[:33]) for r in caplog.records}
    assert said == {('ERROR', 'expired sessions cannot be delete')}


@on_sqlite
def test_a_key_to_a_table_that_is_not_mapped(make_site):
    """D3: what the application has beside its sessions is its own affair."""

    class Base(DeclarativeBase):
        pass

    class UserSession(SessionMixin, Base):
        __tablename__ = 'user_sessions'

    class Order(Base):
        __tablename__ = 'orders'
        number: Mapped[int] = mapped_column(primary_key=True)
        customer: Mapped[int] = mapped_column(sa.ForeignKey('legacy.id'))

    site = make_site(model=UserSession, create=False)
    UserSession.__table__.create(site.outside)
    run(site, lambda request: request.session.update(n=1))
    assert field(site, 'version') == 1


# SQLite has foreign keys only after a PRAGMA.
@pytest.mark.parametrize('database', ['postgresql', 'mariadb'], indirect=True)
def test_own_model_follows_foreign_keys(own):
    """D3: a user's sessions end with the user; an unknown user is refused."""

    def view(request):
        request.session['user_id'] = 7

    def unknown(request):
        request.session['user_id'] = 8

    browser = run(own, view)
    with pytest.raises(sa.exc.IntegrityError):
        run(own, unknown)
    own.execute('DELETE FROM users')
    assert own.rows() == []
    run(own, lambda request: len(request.session), browser)


@pytest.mark.parametrize(
    ('key', 'column', 'value', 'default'),
    [
        ('label', 'label', 'phone', 'none'),
        ('role', 'role', 'admin', 'guest'),
        ('visits', 'visit_count', 5, 1),
        ('user_id', 'user_id', 7, None),
    ],
)
@pytest.mark.parametrize('way', ['never', 'deleted', 'none'])
def test_own_model_has_defaults(own, key, column, value, default, way):
    """D3: a key that is not there, not any more, or None is the default."""

    def view(request):
        request.session['n'] = 1
        if way != 'never':
            request.session[key] = value

    def remove(request):
        request.session['n'] = 2
        if way == 'deleted':
            del request.session[key]
        else:
            request.session[key] = None

    browser = run(own, view)
    if way != 'never':
        assert field(own, column) == value
        run(own, remove, browser)
    assert field(own, column) == default


# -- a moment of MariaDB ------------------------------------------------------

class Stamp(sa.types.TypeDecorator):
    """A type of the application's own."""

    impl = sa.TIMESTAMP
    cache_ok = True


@pytest.mark.parametrize('database', ['mariadb', 'postgresql'], indirect=True)
@pytest.mark.parametrize(
    'type_', [sa.TIMESTAMP, Stamp, sa.DateTime, UTCDateTime]
)
def test_a_moment_by_the_time_zone_of_the_connection(
    make_site, database, caplog, type_
):
    """E4: the log tells of a type whose hours the time zone may not have."""
    make_site(model=with_column(type_))
    expected = database.name == 'mariadb' and type_ in (sa.TIMESTAMP, Stamp)
    said = [text for text in caplog.messages if "'extra' is a TIME" in text]
    assert len(said) == expected
    assert all(len(text) < 250 for text in said)


class Late(sa.types.TypeDecorator):
    """A type that goes by the release of the server."""

    impl = sa.String(40)
    cache_ok = True

    def load_dialect_impl(self, dialect):
        """Return another type on an old one."""
        assert dialect.server_version_info > (1,)
        return dialect.type_descriptor(sa.String(40))


@pytest.mark.parametrize('database', ['mariadb', 'postgresql'], indirect=True)
def test_a_type_that_has_to_know_the_server(database):
    """Section 3: the advice asks no type before there is a connection."""
    engine = sa.create_engine(database.url)
    config = Configurator(settings={
        'sqlasession.check_expiration_interval': '0',
        'sqlasession.engine': engine,
        'sqlasession.model': with_column(Late),
    })
    config.include('pyramid_sqlasession')
    config.make_wsgi_app()
    assert engine.dialect.server_version_info is None


# -- what a deleted key goes back to ------------------------------------------

TEXTS = {
    'str': (sa.String(20), "it's 5%: \\ä", 'x'),
    'int': (sa.Integer, '5', 7),
    'bool': (sa.Boolean, '0', True),
    'date': (sa.Date, '2026-01-02', dt.date(2026, 11, 23)),
    'time': (sa.Time, '03:04:05', dt.time(1)),
    'datetime': (
        sa.DateTime, '2026-01-02 03:04:05', dt.datetime(2026, 11, 23)
    ),
    'decimal': (sa.Numeric(5, 2), '1.25', Decimal(3)),
    'float': (sa.Float, '1.5', 2.5),
    'uuid': (sa.Uuid, uuid.UUID(int=5).hex, uuid.UUID(int=7)),
    'json': (sa.JSON, '{"a": [1]}', [2]),
    'enum': (sa.Enum('red', 'green', name='colour'), 'red', 'green'),
}


def with_column(*args, **kwargs):
    """Return a model with a field ``extra``."""
    base = type('Base', (DeclarativeBase,), {})
    return type('Session', (SessionMixin, base), {
        '__tablename__': 'sessions',
        'extra': mapped_column(*args, nullable=True, **kwargs),
    })


def begin_without(request):
    """Begin a session without the field."""
    request.session['n'] = 1


def take_back(request):
    """Delete the field's key."""
    del request.session['extra']


@pytest.mark.parametrize(
    ('type_', 'default', 'value'), TEXTS.values(), ids=TEXTS
)
def test_default_that_is_a_text_of_the_database(
    make_site, type_, default, value
):
    """D3: a deleted key is the value that a new record has, of any type."""
    site = make_site(model=with_column(type_, server_default=default))
    browser = run(site, begin_without)
    at_first = field(site, 'extra')
    run(site, lambda request: request.session.update(extra=value), browser)
    assert field(site, 'extra') == value != at_first
    run(site, take_back, browser)
    assert field(site, 'extra') == at_first
    assert type(field(site, 'extra')) is type(at_first)


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_default_that_is_a_sequence(make_site):
    """D3: a deleted key takes the next number, as a new record does."""
    site = make_site(model=with_column(
        sa.Integer, sa.Sequence('numbers', start=50)
    ))
    browser = run(site, begin_without)
    assert field(site, 'extra') == 50
    run(site, lambda request: request.session.update(extra=7), browser)
    run(site, take_back, browser)
    assert field(site, 'extra') == 51


@on_sqlite
def test_default_that_nobody_can_tell(make_site):
    """D3: a deleted key is NULL where a trigger makes the default."""
    site = make_site(model=with_column(
        sa.Integer, server_default=sa.FetchedValue()
    ))
    browser = run(site, lambda request: request.session.update(extra=7))
    run(site, take_back, browser)
    assert field(site, 'extra') is None


@on_sqlite
def test_default_that_asks_its_context(make_site):
    """D3: there is none in an UPDATE; the error names the field."""
    site = make_site(model=with_column(
        sa.Integer,
        default=lambda context: context.get_current_parameters()['version'],
    ))
    browser = run(site, begin_without)
    assert field(site, 'extra') == 1
    run(site, lambda request: request.session.update(extra=7), browser)
    with pytest.raises(SessionError, match=r"'extra' goes back .* context"):
        run(site, take_back, browser)
    assert field(site, 'extra') == 7


# -- what its columns take ----------------------------------------------------


@on_sqlite
@pytest.mark.parametrize('value', ['x' * 21, 5])
def test_own_model_checks_its_columns(own, value):
    """D3: as fields of the ini."""

    def view(request):
        request.session['label'] = value

    refused(own, view, 'label')
    assert own.rows() == []


def test_own_model_leaves_computed_columns_alone(make_site):
    """D3: what the database computes is no field."""

    class Base(DeclarativeBase):
        pass

    class Counted(SessionMixin, Base):
        __tablename__ = 'sessions'
        n: Mapped[int] = mapped_column()
        double: Mapped[int] = mapped_column(
            sa.Computed('n * 2', persisted=True)
        )

    site = make_site(model=Counted)

    def view(request):
        request.session['n'] = request.session.get('n', 1) + 1

    run(site, view, run(site, view))
    assert (field(site, 'n'), field(site, 'double')) == (3, 6)


class Size(enum.Enum):
    SMALL = 's'
    LARGE = 'l'


class Colour(enum.StrEnum):
    RED = 'red'


def test_own_model_with_an_enum_class(make_site):
    """D3: an Enum column takes what a session can store: its names."""

    class Base(DeclarativeBase):
        pass

    class Sized(SessionMixin, Base):
        __tablename__ = 'sessions'
        size: Mapped[Size | None] = mapped_column(sa.Enum(Size))
        colour: Mapped[Colour | None] = mapped_column(sa.Enum(Colour))

    site = make_site(
        model=Sized,
        extend_default_fields=lambda defaults, session, request: {
            'size': Size[session['size']],
        },
    )

    def view(request):
        request.session['size'] = 'LARGE'
        request.session['colour'] = Colour.RED

    def again(request):
        request.session['n'] = 1

    run(site, again, run(site, view))
    assert field(site, 'size') is Size.LARGE
    assert field(site, 'colour') is Colour.RED
