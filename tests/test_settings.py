"""Each setting, as ini text and as Python object, right and wrong."""

import datetime as dt
import json
import re

from cryptography.fernet import Fernet
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.session import SignedCookieSessionFactory
from pyramid.settings import falsey
from pyramid.settings import truthy
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import scoped_session
from sqlalchemy.orm import sessionmaker

import pyramid_sqlasession
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SQLASession
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.durations import duration
from pyramid_sqlasession.settings import _READERS
from pyramid_sqlasession.settings import read_settings
from pyramid_sqlasession.spelling import spelled

from .failing import on_sqlite
from .naming import shown
from .site import Note


class Base(DeclarativeBase):
    """The models of an application."""


class UserSession(SessionMixin, Base):
    """The application's own model of the sessions."""

    __tablename__ = 'user_sessions'

    user_id: Mapped[int | None]


class Plain(Base):
    """A model that is none of sessions."""

    __tablename__ = 'plain'

    id: Mapped[int] = mapped_column(primary_key=True)


def make_engine(registry):
    """What ``sqlasession.engine`` may name."""
    return sa.create_engine(registry.settings['my.url'])


def make_nonsense(registry):
    """What it may not."""
    return 'no engine'


def extended(defaults, session, request):
    """What ``sqlasession.extend_default_fields`` may name."""
    return {**defaults, 'note': session.get('b')}


not_callable = 7


class Dumb:
    """No serializer: it cannot read."""

    dumps = None
    loads = None


class Demanding:
    """A serializer that cannot be made without arguments."""

    def __init__(self, key):
        self.key = key

    dumps = loads = None


def settings_of(**given):
    """Return the settings that come out of these."""
    return read_settings({
        f'sqlasession.{name}': value for name, value in given.items()
    })


def start(tmp_path, late=None, configure=None, **given):
    """Return the registry of an application that starts with settings.

    Names that contain a dot are taken as they are.
    """
    settings = {
        'sqlalchemy.url': f'sqlite:///{tmp_path}/app.sqlite',
        'sqlasession.check_expiration_interval': '0',
    }
    for name, value in given.items():
        settings[name if '.' in name else f'sqlasession.{name}'] = value
    config = Configurator(settings={
        name: value for name, value in settings.items() if value is not None
    })
    config.include('pyramid_sqlasession')
    if configure is not None:
        configure(config)
    config.add_settings(late or {})
    registry = config.make_wsgi_app().registry
    registry['sqlasession'].engine.dispose()
    return registry


def refused(tmp_path, **given):
    """Return the text of the error that ends the start with settings."""
    with pytest.raises(ConfigurationError) as caught:
        start(tmp_path, **given)
    return str(caught.value)


# -- durations ----------------------------------------------------------------

@pytest.mark.parametrize(
    ('value', 'seconds'),
    [
        ('90', 90), ('90s', 90), ('15m', 900), ('24h', 86400),
        ('7d', 604800), ('1h30m', 5400), ('1d2h3m4s', 93784),
        (' 1h30m\n', 5400), ('1H30M', 5400), ('1.5', 1.5), ('0.5', 0.5),
        (90, 90), (90.5, 90.5), (dt.timedelta(minutes=3), 180),
    ],
    ids=repr,
)
def test_durations(value, seconds):
    """Section 2: a number of seconds, or text with units, or timedelta."""
    found = settings_of(expiration=value, touch_interval='0')
    assert found.expiration == seconds
    assert settings_of(absolute_timeout=value, expiration=value,
                       touch_interval=0).absolute_timeout == seconds


NO_DURATION = [
    'soon', '1w', 's', '1h 30x', '30m1h', '1h1h', '1.5h', '1,5', '--1', '1e3',
    '0x10', 'nan', 'inf', '\u0661\u0662', '\u0661h', '1 000',
    True, float('nan'),
    float('inf'), [], b'90', object, 10**400, '9' * 5000, '101y', 1e12,
    dt.timedelta(days=40_000),
]


@pytest.mark.parametrize('value', NO_DURATION, ids=lambda v: repr(v)[:20])
@pytest.mark.parametrize('key', [
    'expiration', 'absolute_timeout', 'touch_interval',
    'check_expiration_interval', 'renewal_interval', 'renewal_grace',
    'cookie_max_age',
])
def test_no_durations(key, value):
    """Section 2: the error names key and value and says what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        settings_of(**{key: value})
    text = str(caught.value)
    assert f'sqlasession.{key} = ' in text
    assert repr(value)[:20] in text
    assert re.search('15m|100 years', text)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('expiration', '0'), ('expiration', 0), ('expiration', '-5'),
        ('expiration', dt.timedelta(0)), ('absolute_timeout', '0s'),
        ('absolute_timeout', -1), ('touch_interval', '-1'),
        ('renewal_interval', '0'), ('renewal_grace', '-1'),
        ('cookie_max_age', '0'), ('cookie_max_age', '-1'),
    ],
)
def test_durations_that_make_no_sense(key, value):
    """Section 2: 0 or less where it would end each session at once."""
    with pytest.raises(ConfigurationError, match=f'sqlasession.{key} = '):
        settings_of(**{key: value})


@pytest.mark.parametrize('text', ['', ' '])
def test_nothing_is_no_duration(text):
    """Section 2: nor where no default stands for it, as in fresh('')."""
    with pytest.raises(ValueError, match='15m'):
        duration(text)


@pytest.mark.parametrize('key', ['expiration', 'cookie_max_age'])
def test_the_longest_duration(key):
    """Section 2: 100 years; then the arithmetic overflows some day."""
    longest = 100 * 366 * 86400
    assert getattr(settings_of(**{key: longest}), key) == longest
    with pytest.raises(ConfigurationError, match='100 years'):
        settings_of(**{key: f'{longest // 86400}d1s'})


def test_the_shortest_life_of_a_cookie():
    """Section 2: a second, as browsers know no less."""
    found = settings_of(cookie_max_age='1', touch_interval='0')
    assert found.cookie_max_age == 1


# -- other values -------------------------------------------------------------

@pytest.mark.parametrize(
    ('value', 'count'),
    [
        ('100', 100), ('100b', 100), (100, 100), ('2', 2),
        ('2kB', 2000), ('2MB', 2_000_000), ('1gb', 1_000_000_000),
        ('64KiB', 65536), ('64 kib', 65536), ('3MiB', 3 * 1024**2),
        ('1GiB', 1024**3),
    ],
)
def test_sizes(value, count):
    """Section 2: bytes, or with a unit; in any case, with or without blank."""
    assert settings_of(max_size=value).max_size == count


@pytest.mark.parametrize('word', sorted({*truthy, *falsey}))
def test_flags(word):
    """Section 2: the words of Pyramid's own settings, in any case."""
    for given in (word, word.upper(), f' {word} '):
        found = settings_of(disable_touch=given, create_table=given)
        assert found.disable_touch == found.create_table == (word in truthy)


@pytest.mark.parametrize('value', ['0', '-1', 0, -900, '0s', '-15m'])
def test_no_cleaner(value):
    """Section 2: 0 or negative = no cleaner."""
    found = settings_of(check_expiration_interval=value)
    assert found.check_expiration_interval <= 0


# -- the defaults -------------------------------------------------------------

def test_defaults():
    """Section 2: what holds without any setting."""
    found = settings_of()
    assert {
        name: getattr(found, name)
        for name in (
            'dbsession', 'table_name', 'schema', 'create_table', 'expiration',
            'absolute_timeout', 'touch_interval', 'disable_touch',
            'check_expiration_interval', 'renewal_interval', 'renewal_grace',
            'conflict', 'max_size', 'max_sessions_per_user', 'user_field',
            'cookie_name', 'cookie_path', 'cookie_domain', 'cookie_httponly',
            'cookie_samesite', 'cookie_max_age', 'cookie_partitioned',
        )
    } == {
        'dbsession': 'dbsession', 'table_name': 'sessions', 'schema': None,
        'create_table': False, 'expiration': 86400, 'absolute_timeout': None,
        'touch_interval': 60, 'disable_touch': False,
        'check_expiration_interval': 900, 'renewal_interval': None,
        'renewal_grace': 60, 'conflict': 'merge', 'max_size': 1024 * 1024,
        'max_sessions_per_user': None, 'user_field': 'user_id',
        'cookie_name': 'session', 'cookie_path': '/', 'cookie_domain': None,
        'cookie_httponly': True, 'cookie_samesite': 'Lax',
        'cookie_max_age': 86400, 'cookie_partitioned': False,
    }


@pytest.mark.parametrize(
    ('given', 'seconds'),
    [
        ({}, 60), ({'expiration': '5m'}, 30), ({'expiration': '10m'}, 60),
        ({'expiration': '10s'}, 1), ({'cookie_max_age': '5m'}, 30),
        ({'cookie_max_age': 'session'}, 60),
        ({'expiration': '5m', 'cookie_max_age': 'session'}, 30),
        ({'expiration': '5m', 'touch_interval': '4m'}, 240),
    ],
    ids=str,
)
def test_touch_interval_by_default(given, seconds):
    """Section 2: 60s, at most a tenth of the expiration."""
    assert settings_of(**given).touch_interval == seconds


def test_an_empty_value_is_the_default():
    """Section 2: in an ini file, nothing after = is not set."""
    empty = settings_of(**dict.fromkeys(_READERS, ' '))
    nothing = settings_of(**dict.fromkeys(_READERS))
    assert repr(empty) == repr(nothing).replace(
        repr(nothing.serializer), repr(empty.serializer)
    )
    assert empty.secret == ()


@pytest.mark.parametrize('given', [
    'one two', b'one two', ['one', b'two'], (b'one', b'two'),
], ids=repr)
def test_words_as_python_has_them(given):
    """Section 2: keys may be bytes, as Fernet.generate_key() returns them."""
    settings = settings_of(secret=given, encryption_keys=given)
    assert settings.secret == settings.encryption_keys == ('one', 'two')


@pytest.mark.parametrize(
    'given', [b'\xff', [b'\xff'], [7], [], b'', 7], ids=repr
)
def test_words_that_are_none(given):
    """Section 2: neither other types nor bytes that are no text."""
    with pytest.raises(ConfigurationError, match='must be text, or a list'):
        settings_of(encryption_keys=given)


def test_other_settings_are_left_alone():
    """Section 2: only the prefix is ours."""
    assert read_settings({
        'sqlalchemy.url': 'x', 'sqlasessions.secret': 'x', 'secret': 'x',
        'sqlasession': 'x', 7: 'x',
    }).secret == ()


# -- wrong values -------------------------------------------------------------

@pytest.mark.parametrize(
    ('key', 'value', 'allowed'),
    [
        ('create_table', 'maybe', 'true or false'),
        ('create_table', 2, 'true or false'),
        ('disable_touch', 'ja', 'true or false'),
        ('cookie_httponly', [], 'true or false'),
        ('cookie_partitioned', 'x', 'true or false'),
        ('cookie_secure', 'sometimes', 'auto, true or false'),
        ('cookie_secure', 7, 'auto, true or false'),
        ('conflict', 'overwrite', 'merge, retry'),
        ('conflict', True, 'merge, retry'),
        ('cookie_samesite', 'Loose', 'Lax, Strict, None'),
        ('max_size', '1 elephant', '64KiB'),
        ('max_size', '-1', '64KiB'),
        ('max_size', '0', 'at least'),
        ('max_size', 1.5, '64KiB'),
        ('max_size', True, '64KiB'),
        ('max_size', '5GiB', 'at most'),
        ('max_size', '9' * 5000, '64KiB'),
        ('max_sessions_per_user', 'many', 'whole number'),
        ('max_sessions_per_user', '0', 'at least 1'),
        ('max_sessions_per_user', True, 'whole number'),
        ('max_sessions_per_user', 2.5, 'whole number'),
        ('user_field', 'a b', 'additional field'),
        ('user_field', 7, 'additional field'),
        ('dbsession', '1x', 'request attribute'),
        ('dbsession', 'db session', 'request attribute'),
        ('dbsession', object, 'request attribute'),
        ('dbsession', 'session', 'not of another one'),
        ('dbsession', 'tm', 'not of another one'),
        ('dbsession', 'registry', 'not of another one'),
        ('table_name', 'a b', 'letters'),
        ('table_name', '1st', 'not begin with a digit'),
        ('table_name', 'x' * 64, '63'),
        ('table_name', 'a;drop', 'letters'),
        ('table_name', 7, 'letters'),
        ('schema', 7, 'text'),
        ('cookie_name', 'a b', 'RFC 6265'),
        ('cookie_name', 'a;b', 'RFC 6265'),
        ('cookie_name', 'a=b', 'RFC 6265'),
        ('cookie_name', 'ä', 'RFC 6265'),
        ('cookie_name', 'a\nb', 'RFC 6265'),
        ('cookie_name', 7, 'RFC 6265'),
        ('cookie_path', 'shop', 'begin with /'),
        ('cookie_path', '/a;b', 'semicolons'),
        ('cookie_path', '/a\r\nX: y', 'begin with /'),
        ('cookie_path', '/ä', 'ASCII'),
        ('cookie_domain', 'a b', 'example.com'),
        ('cookie_domain', 'example.com;x', 'example.com'),
        ('cookie_domain', 'http://example.com', 'example.com'),
        ('cookie_domain', 'example..com', 'example.com'),
        ('cookie_domain', 'a.b\nx', 'example.com'),
        ('model', 'no.such.module.Model', 'SessionMixin'),
        ('model', f'{__name__}.NoSuchClass', 'SessionMixin'),
        ('model', f'{__name__}.Plain', 'SessionMixin'),
        ('model', f'{__name__}.not_callable', 'SessionMixin'),
        ('model', SessionMixin, 'SessionMixin'),
        ('model', Base, 'SessionMixin'),
        ('engine', 'no.such.module.engine', 'f(registry) -> Engine'),
        ('engine', f'{__name__}.make_nonsense', 'f(registry) -> Engine'),
        ('engine', f'{__name__}.not_callable', 'f(registry) -> Engine'),
        ('engine', 7, 'f(registry) -> Engine'),
        ('serializer', 'no.such.module', 'dumps and loads'),
        ('serializer', 'pickles', 'dumps and loads'),
        ('serializer', f'{__name__}.not_callable', 'dumps and loads'),
        ('serializer', f'{__name__}.Dumb', 'dumps and loads'),
        ('serializer', f'{__name__}.Demanding', 'argument'),
        ('serializer', object(), 'dumps and loads'),
        ('extend_default_fields', 'no.such.module.f', '-> dict'),
        ('extend_default_fields', f'{__name__}.not_callable', '-> dict'),
        ('extend_default_fields', 7, '-> dict'),
        ('url', 'nonsense', 'dialect://'),
        ('url', 'nosuchdialect://localhost/x', 'nosuchdialect'),
        ('engine.pool_size', '5', 'sqlasession.url'),
    ],
    ids=lambda v: shown(v)[:30] if not isinstance(v, str) else ascii(v)[1:30],
)
def test_wrong_values(tmp_path, key, value, allowed):
    """Section 2: the start fails; key, value and what is allowed is named."""
    name = key if not key.startswith('engine.') else f'sqlasession.{key}'
    text = refused(tmp_path, **{name: value})
    assert f'sqlasession.{key}' in text
    assert allowed in text
    if key != 'url' and not isinstance(value, type):
        shown = value.strip() if isinstance(value, str) else value
        assert repr(shown)[:25] in text


@pytest.mark.parametrize(
    ('lines', 'words'),
    [
        ('user_id', 'name: Type'),
        ('user_id Integer', 'name: Type'),
        ('user_id:', 'name: Type'),
        (': Integer', 'name: Type'),
        ('a b: Integer', 'a b: Integer'),
        ('1a: Integer', "'1a'"),
        ('class: Integer', "'class'"),
        ('a-b: Integer', "'a-b'"),
        ('_a: Integer', "'_a'"),
        ('ä: Integer', 'ASCII'),
        ('data: Integer', 'already'),
        ('id: Integer', 'already'),
        ('Data: Integer', 'already'),
        ('from: Integer', "'from' is a word of Python"),
        ('metadata: Integer', "'metadata' is an attribute of SQLAlchemy"),
        ('registry: Integer', "'registry' is an attribute of SQLAlchemy"),
        ('fields: JSON', "'fields' is the attribute with all fields"),
        ('except_id: Uuid', "'except_id' is an argument of session_store.rev"),
        ('self: Integer', "'self' is an argument of session_store.find()"),
        ('a: Integer\na: String(5)', 'twice'),
        ('a: Integer\nA: String(5)', 'twice'),
        ('a: Intger', "'Intger'"),
        ('a: select', 'select'),
        ('a: int', "'int'"),
        ('a: Integer()()', '()()'),
        ('a: String(1)(2)', '(1)(2)'),
        ('a: String(1), b: Integer', 'a: String(1), b'),
        ('a: String(x)', '(x)'),
        ('a: String("""', 'name: Type'),
        ('a: String(64', 'name: Type'),
        ('a: String(1, 2, 3, 4, 5, 6)', 'arguments'),
        ('a: String(nonsense=1)', 'nonsense'),
        ('a: String(**{"length": 3})', 'String'),
        ("a: String(__import__('os').getcwd())", 'numbers, quoted'),
        ('a: Integer indexed', "'indexed'"),
        ('a: Integer not', "'not'"),
        ('a: Integer not null null', "'null'"),
        ('a: no.such.module.Type', "'no.such.module.Type'"),
        ('a: pyramid.config.Configurator', 'Configurator'),
        (f'a: {__name__}.not_callable', 'not_callable'),
        (7, 'name: Type'),
        ([7], 'name: Type'),
        ({'a': 7}, '7'),
        ({'data': sa.Integer}, 'already'),
        ([('a', 'Integer')], 'name: Type'),
    ],
    ids=lambda value: ascii(shown(value))[:40],
)
def test_wrong_fields(tmp_path, lines, words):
    """Section 2: additional_fields that cannot be made are named."""
    text = refused(tmp_path, additional_fields=lines)
    assert 'sqlasession.additional_fields = ' in text
    assert words in text


@pytest.mark.parametrize(
    'given',
    [
        'user_id: Integer index\nnote: String(64) unique not null',
        '\n  user_id : Integer  INDEX \n\n note:String( 64 )not null unique\n',
        ['user_id: Integer index', 'note: String(length=64) unique not null'],
        'user_id: sqlalchemy.Integer index\n'
        'note: sqlalchemy.types:String(64) unique not null',
    ],
    ids=['text', 'blanks', 'list', 'dotted'],
)
def test_fields(tmp_path, given):
    """Section 2: name: Type[(args)] [index] [unique] [not null]."""
    registry = start(tmp_path, additional_fields=given)
    table = registry['sqlasession'].records.table
    user_id, note = table.c.user_id, table.c.note
    assert isinstance(user_id.type, sa.Integer)
    assert (user_id.index, user_id.unique, user_id.nullable) == (
        True, None, True
    )
    assert (note.type.length, note.unique, note.nullable) == (64, True, False)


def test_fields_as_objects(tmp_path):
    """Section 2: a dict of types."""
    registry = start(tmp_path, additional_fields={
        'a': sa.Integer, 'b': sa.String(5), 'c': 'Enum("x", "y")',
        'd': 'Numeric(10, 2)', 'e': 'DateTime(timezone=True) not null',
        'f': 'sqlalchemy.dialects.postgresql.INET',
    })
    c = registry['sqlasession'].records.table.c
    assert c.b.type.length == 5
    assert c.c.type.enums == ['x', 'y']
    assert (c.d.type.precision, c.d.type.scale) == (10, 2)
    assert c.e.type.timezone is True
    assert type(c.f.type).__name__ == 'INET'


# -- typos --------------------------------------------------------------------

@pytest.mark.parametrize(
    ('typo', 'meant'),
    [
        ('expiraton', 'expiration'), ('experation', 'expiration'),
        ('cookie_samesit', 'cookie_samesite'), ('cookiename', 'cookie_name'),
        ('additional_field', 'additional_fields'), ('tablename', 'table_name'),
        ('create-table', 'create_table'), ('Secret', 'secret'),
        ('check_expiration_intervall', 'check_expiration_interval'),
        ('engin', 'engine'), ('touchinterval', 'touch_interval'),
        ('cookie.name', 'cookie_name'), ('cookie_same_site',
                                         'cookie_samesite'),
    ],
)
def test_typos(tmp_path, typo, meant):
    """Section 2: an unknown key is an error with the nearest known one."""
    text = refused(tmp_path, **{f'sqlasession.{typo}': 'value'})
    assert f'sqlasession.{typo} = ' in text
    assert f'sqlasession.{meant}?' in text


@pytest.mark.parametrize('name', [
    'db_password', 'api_key', 'database_url', 'shared_secret', 'db_uri',
])
def test_an_unknown_key_that_may_be_secret(tmp_path, name):
    """Section 2: its value is not shown."""
    text = refused(tmp_path, **{f'sqlasession.{name}': 'geheim'})
    assert f'sqlasession.{name} = (not shown)' in text
    assert 'geheim' not in text


def test_a_key_like_no_other(tmp_path):
    """Section 2: if nothing is near, all keys are named."""
    text = refused(tmp_path, **{'sqlasession.zzz': 'value'})
    assert "sqlasession.zzz = 'value'" in text
    for name in ('secret', 'expiration', 'cookie_max_age', 'url'):
        assert name in text


# -- combinations -------------------------------------------------------------

URL = 'sqlite://'


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'url': URL, 'dbsession': 'dbsession'}, 'dbsession'),
        ({'url': URL, 'engine': f'{__name__}.make_engine'}, 'engine'),
        ({'model': UserSession, 'table_name': 'x'}, 'table_name'),
        ({'model': UserSession, 'table_name': 'sessions'}, 'table_name'),
        ({'model': UserSession, 'schema': 'x'}, 'schema'),
        ({'model': UserSession, 'additional_fields': 'a: Integer'},
         'additional_fields'),
        ({'expiration': '2h', 'absolute_timeout': '1h'}, 'absolute_timeout'),
        ({'absolute_timeout': '1h'}, 'absolute_timeout'),
        ({'touch_interval': '24h'}, 'expiration'),
        ({'touch_interval': '1h', 'expiration': '1h'}, 'expiration'),
        ({'touch_interval': '1h', 'cookie_max_age': '30m'}, 'cookie_max_age'),
        ({'touch_interval': '1h', 'cookie_max_age': '1h'}, 'cookie_max_age'),
        ({'renewal_interval': '60s'}, 'renewal_interval'),
        ({'renewal_interval': '5m', 'renewal_grace': '10m'},
         'renewal_interval'),
        ({'cookie_samesite': 'None'}, 'cookie_secure'),
        ({'cookie_samesite': 'none', 'cookie_secure': 'auto'},
         'cookie_secure'),
        ({'cookie_samesite': 'None', 'cookie_secure': 'false'},
         'cookie_secure'),
        ({'cookie_partitioned': 'true'}, 'cookie_secure'),
        ({'cookie_partitioned': True, 'cookie_secure': False},
         'cookie_secure'),
        ({'cookie_name': '__Host-s', 'cookie_domain': 'example.com'},
         'cookie_domain'),
        ({'cookie_name': '__Host-s', 'cookie_path': '/shop'}, 'cookie_path'),
        ({'cookie_name': '__Host-s', 'cookie_secure': 'false'},
         'cookie_secure'),
        ({'cookie_name': '__Secure-s', 'cookie_secure': 'false'},
         'cookie_secure'),
        ({'cookie_name': '__HOST-s', 'cookie_path': '/shop'}, 'cookie_path'),
        ({'cookie_name': '__Http-s', 'cookie_secure': 'false'},
         'cookie_secure'),
        ({'cookie_name': '__Http-s', 'cookie_httponly': 'false'},
         'cookie_httponly'),
        ({'cookie_name': '__Host-Http-s', 'cookie_httponly': 'no'},
         'cookie_httponly'),
        ({'cookie_name': '__Host-Http-s', 'cookie_path': '/shop'},
         'cookie_path'),
        ({'secret': 'none'}, 'secret'), ({'secret': 'none one'}, 'secret'),
    ],
    ids=str,
)
def test_impossible_combinations(tmp_path, given, words):
    """Section 2: each ends the start with both keys and the reason."""
    text = refused(tmp_path, **given)
    assert f'sqlasession.{words}' in text
    named = set(re.findall(r'sqlasession\.(\w+)', text))
    assert named & set(given)


@pytest.mark.parametrize(
    'given',
    [
        {'expiration': '1h', 'absolute_timeout': '1h'},
        {'touch_interval': '59m', 'expiration': '1h'},
        {'touch_interval': '1h', 'cookie_max_age': 'session'},
        {'touch_interval': '24h', 'disable_touch': 'true'},
        {'touch_interval': '1h', 'cookie_max_age': '30m',
         'disable_touch': True},
        {'cookie_samesite': 'None', 'cookie_secure': 'true'},
        {'cookie_partitioned': 'true', 'cookie_secure': 'yes'},
        {'cookie_name': '__Host-s'},
        {'cookie_name': '__Host-s', 'cookie_secure': 'true'},
        {'cookie_name': '__Host-s', 'cookie_httponly': 'false'},
        {'cookie_name': '__Http-s', 'cookie_path': '/shop'},
        {'cookie_name': '__Secure-s', 'cookie_domain': 'example.com',
         'cookie_path': '/shop'},
        {'renewal_interval': '61s'},
        {'renewal_interval': '30s', 'renewal_grace': '0'},
        {'cookie_max_age': '400d'},
        {'cookie_max_age': '1h'},
        {'cookie_domain': '.example.com'},
        {'max_size': '1gb'},
        {'model': f'{__name__}.UserSession'},
        {'model': UserSession},
        {'table_name': 'Sitzungen'}, {'schema': 'web'},
    ],
    ids=str,
)
def test_possible_combinations(tmp_path, given):
    """Section 2: what works is not refused."""
    assert start(tmp_path, **given)['sqlasession']


def test_the_own_model_is_used(tmp_path):
    """Section 3: further columns of the class are additional fields."""
    application = start(tmp_path, model=UserSession)['sqlasession']
    assert application.records.table is UserSession.__table__
    assert list(application.fields.columns) == ['user_id']


# -- secrets ------------------------------------------------------------------

HIDDEN = 'hunter2'


@pytest.mark.parametrize(
    'given',
    [
        {'sqlasession.secert': HIDDEN},
        {'sqlasession.secrets': HIDDEN},
        {'sqlasession.sectre': HIDDEN},
        {'sqlasession.encrpytion': HIDDEN},
        {'sqlasession.encryption_key': HIDDEN},
        {'sqlasession.ulr': f'postgresql://me:{HIDDEN}@host/db'},
        {'sqlasession.uri': f'postgresql://me:{HIDDEN}@host/db'},
        {'engine': f'postgresql://me:{HIDDEN}@host/db'},
        {'engine': f'postgresql://me:a/b@{HIDDEN}@host/db'},
        {'engine': f'postgresql://{"m" * 175}:{HIDDEN}@host/db'},
        {'model': f'postgresql://me:{HIDDEN}@host/db'},
        {'model': f'postgresql:///db?user=me&password={HIDDEN}'},
        {'table_name': f'mysql+pymysql://me:a {HIDDEN}@host/db'},
        {'cookie_name': {'password': HIDDEN}},
        {'cookie_name': f'host=here Password={HIDDEN}'},
        {'additional_fields': f'url: postgresql://me:{HIDDEN}@host/db'},
        {'sqlasession.dsn': f'postgresql://me:{HIDDEN}@host/db'},
        {'sqlasession.database': f'postgresql://me:{HIDDEN}@host/db'},
        {'sqlasession.db': f'postgresql://me:{HIDDEN}@host/db'},
        {'secret': b'\xff' + HIDDEN.encode()},
        {'secret': [HIDDEN, 7]},
        {'encryption_keys': HIDDEN},
        {'encryption_keys': [HIDDEN.encode()]},
        {'url': HIDDEN},
        {'url': f'nosuchdialect://me:{HIDDEN}@host/db'},
        {'url': f'postgresql://me:{HIDDEN}@host:port/db'},
        {'url': f'postgresql://me:at@colon:{HIDDEN}@host/db'},
        {'url': f'sqlite://me:{HIDDEN}@host/db'},
        {'url': f'sqlite:///db?password={HIDDEN}',
         'dbsession': 'dbsession'},
        {'sqlasession.url': f'nonsense {HIDDEN}'},
        {'sqlasession.engine.password': HIDDEN},
        {'sqlasession.engine.connect_args': {'password': HIDDEN}},
        {'sqlalchemy.url': HIDDEN},
        {'sqlalchemy.url': f'nosuchdialect://me:{HIDDEN}@host/db'},
        {'sqlalchemy.url': f'postgresql://me:{HIDDEN}@host:port/db'},
        {'sqlalchemy.url': f'postgresql://me:at@colon:{HIDDEN}@host/db'},
        {'sqlalchemy.url': f'sqlite://me:{HIDDEN}@host/db',
         'create_table': 'true'},
    ],
    ids=str,
)
def test_errors_do_not_show_secrets(tmp_path, given):
    """Section 1: a start that fails prints no secret, key or password."""
    assert HIDDEN not in refused(tmp_path, **given)


@pytest.mark.parametrize('name', ['engine', 'sqlasession.dsn'])
def test_what_is_left_of_a_url(tmp_path, name):
    """Section 2: without its password, the wrong value is still known."""
    text = refused(tmp_path, **{name: f'postgresql://me:{HIDDEN}@host/db'})
    assert " = 'postgresql://(not shown)@host/db': " in text


@pytest.mark.parametrize('url', [
    f'postgresql+psycopg://me:{HIDDEN}@localhost/db',
    f'postgresql+psycopg://me:a%40{HIDDEN}@localhost/db',
    f'postgresql+psycopg:///db?user=me&password={HIDDEN}',
    f'mysql+pymysql://me:{HIDDEN}@localhost/db?ssl_key={HIDDEN}',
    sa.URL.create('postgresql+psycopg', 'me', HIDDEN, 'localhost'),
], ids=str)
def test_the_introspectable_masks_secrets(tmp_path, url):
    """Section 1: the settings can be shown to everybody."""
    key = Fernet.generate_key().decode()
    registry = start(
        tmp_path, url=url, secret=f'{HIDDEN} other-{HIDDEN}',
        encryption_keys=key, expiration='1h',
        **{'sqlasession.engine.pool_size': '7',
           'sqlasession.engine.connect_args': {'passfile': HIDDEN}},
    )
    shown = registry.introspector.get('pyramid_sqlasession', 'settings')
    text = repr(dict(shown)) + str(shown)
    text += repr(registry['sqlasession'].settings)
    assert HIDDEN not in text
    assert key not in text
    assert shown['expiration'] == 3600
    assert shown['cookie_name'] == 'session'
    assert 'localhost' in text or 'db' in text


def test_keys_that_only_read_are_shown_as_such(tmp_path):
    """Section 2: that nothing is encrypted is no secret."""
    key = Fernet.generate_key().decode()
    registry = start(tmp_path, encryption_keys=f'none {key}')
    shown = registry.introspector.get('pyramid_sqlasession', 'settings')
    assert shown['encryption_keys'] == 'none (1 not shown)'


def test_the_introspectable_shows_the_effective_settings(tmp_path):
    """Also what is not set, and what follows from others."""
    registry = start(tmp_path, expiration='5m', secret='x y')
    shown = registry.introspector.get('pyramid_sqlasession', 'settings')
    assert shown['touch_interval'] == 30
    assert shown['cookie_secure'] == 'auto'
    assert shown['conflict'] == 'merge'
    assert '2' in str(shown['secret'])
    category = registry.introspector.get_category('pyramid_sqlasession')
    assert len(category) == 1


# -- the engine ---------------------------------------------------------------

def test_no_engine(tmp_path):
    """Section 2: none found: the error says what to set."""
    text = refused(tmp_path, **{'sqlalchemy.url': None})
    for word in ('sqlalchemy.url', 'dbsession_factory', 'sqlasession.engine',
                 'sqlasession.url'):
        assert word in text


def test_no_engine_and_create_table(tmp_path):
    """Section 2: create_table needs the engine at start-up."""
    text = refused(
        tmp_path, create_table='true', **{'sqlalchemy.url': None}
    )
    assert 'sqlasession.engine' in text


def test_create_table_without_a_database(tmp_path):
    """Section 2: create_table with a database that is down says so."""
    text = refused(
        tmp_path, create_table='true',
        **{'sqlalchemy.url': 'sqlite:////no/such/directory/x.sqlite'},
    )
    assert 'sqlasession.create_table' in text
    assert 'database' in text


def url_of(tmp_path, name):
    """Return the URL of an SQLite file."""
    return f'sqlite:///{tmp_path}/{name}.sqlite'


@pytest.mark.parametrize('kind', ['sessionmaker', 'scoped', 'connection'])
def test_the_engine_of_the_cookiecutter(tmp_path, kind):
    """Section 2: one pool, not two: the bind of dbsession_factory."""
    engine = sa.create_engine(url_of(tmp_path, 'mine'))

    def configure(config):
        bind = engine.connect() if kind == 'connection' else engine
        factory = sessionmaker(bind)
        if kind == 'scoped':
            factory = scoped_session(factory)
        config.registry['dbsession_factory'] = factory
        if kind == 'connection':
            bind.close()

    registry = start(tmp_path, configure=configure)
    assert registry['sqlasession'].engine is engine


@pytest.mark.parametrize(
    'factory', [None, 'text', sessionmaker(), lambda: None, 7],
    ids=['none', 'text', 'unbound', 'function', 'number'],
)
def test_a_factory_without_an_engine(tmp_path, factory):
    """Section 2: else the engine is built from sqlalchemy.*."""
    def configure(config):
        config.registry['dbsession_factory'] = factory

    registry = start(tmp_path, configure=configure)
    assert registry['sqlasession'].engine.url.database.endswith('app.sqlite')


@pytest.mark.parametrize(
    'given', [f'{__name__}.make_engine', f'{__name__}:make_engine',
              make_engine],
    ids=['name', 'colon', 'function'],
)
def test_the_given_engine(tmp_path, given):
    """Section 2: engine = f(registry) -> Engine goes before all others."""
    url = url_of(tmp_path, 'given')
    registry = start(tmp_path, engine=given, **{'my.url': url})
    assert str(registry['sqlasession'].engine.url) == url


def failing_engine(registry):
    """A function for ``sqlasession.engine`` that fails."""
    return registry['no.such.key']


def test_a_given_engine_that_fails(tmp_path):
    """Section 2: the error names the setting, the function, and its error."""
    text = refused(tmp_path, engine=failing_engine)
    assert 'sqlasession.engine = ' in text
    assert 'failing_engine' in text
    assert "KeyError: 'no.such.key'" in text


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        ({'absolute_timeout': '1h'},
         "sqlasession.absolute_timeout = '1h': must not be below "
         'sqlasession.expiration = 24h (the default)'),
        ({'absolute_timeout': '1h', 'expiration': '2h'},
         "sqlasession.expiration = '2h': must not be above "
         'sqlasession.absolute_timeout = 1h'),
        ({'touch_interval': '48h'},
         "sqlasession.touch_interval = '48h': must be below "
         'sqlasession.expiration = 24h (the default)'),
        ({'renewal_interval': '5s'},
         "sqlasession.renewal_interval = '5s': must be above "
         'sqlasession.renewal_grace = 60s (the default)'),
        ({'cookie_partitioned': 'yes'},
         "sqlasession.cookie_partitioned = 'yes': "),
        ({'check_expiration_interval': 'never'}, '; 0 is never'),
        ({'max_size': '-1'}, 'at least 2 and at most 1GiB'),
        ({'max_sessions_per_user': '3'},
         'sqlasession.max_sessions_per_user = 3: needs'),
        ({'max_sessions_per_user': '3', 'additional_fields': 'user_id: JSON'},
         'sqlasession.user_field = user_id: is JSON, '),
        ({'additional_fields': 'user_id: Nonsense'},
         "sqlasession.additional_fields = 'user_id: Nonsense': "),
    ],
    ids=str,
)
def test_an_error_says_what_was_written(tmp_path, given, text):
    """Section 2: the key, its value to the letter, if another is default."""
    assert text in refused(tmp_path, **given)


@pytest.mark.parametrize(
    ('length', 'text'),
    # As it is written: with the quotes.
    [(198, "'" + 198 * 'x' + "'"), (199, "'" + 196 * 'x' + '...')],
)
def test_a_long_value_is_cut(length, text):
    """Section 2: so that what is allowed is still seen."""
    with pytest.raises(ConfigurationError) as caught:
        settings_of(conflict=length * 'x')
    assert str(caught.value) == (
        f'sqlasession.conflict = {text}: must be one of merge, retry'
    )


def test_the_place_of_an_error(tmp_path):
    """Section 2: Pyramid names the place of an error; ours is known."""
    with pytest.raises(ConfigurationError) as raised:
        start(tmp_path, expiration='soon')
    assert "config.include('pyramid_sqlasession')" in str(raised.value)
    assert 'Line 0' not in str(raised.value)


def test_the_given_engine_as_an_object(tmp_path):
    """Section 2: or an Engine."""
    engine = sa.create_engine(url_of(tmp_path, 'given'))
    assert start(tmp_path, engine=engine)['sqlasession'].engine is engine


@pytest.mark.parametrize('written', [
    '5', '90s', '15m', '24h', '2d', '10d', '90.5', '1234567', '100000000',
])
def test_durations_are_spelled_as_they_are_read(written):
    """Section 2: what the toolbar shows can be put into an ini file."""
    given = {'sqlasession.expiration': written}
    settings = read_settings(given)
    ((key, value, _),) = [
        one for one in spelled(settings) if one[0] in given
    ]
    assert read_settings({key: value}).expiration == settings.expiration


def test_an_add_on_that_sets_a_factory_only_where_there_is_none(tmp_path):
    """Section 1: it sees, within one list of includes, that there is one."""

    def add_on(config):
        if config.registry.queryUtility(ISessionFactory) is None:
            config.set_session_factory(SignedCookieSessionFactory('secret'))

    registry = start(tmp_path, configure=add_on)
    request = Request.blank('/')
    request.registry = registry
    session = registry.getUtility(ISessionFactory)(request)
    assert type(session) is SQLASession


def test_an_engine_of_its_own(tmp_path):
    """Section 2, T0: url and engine.* make an engine of its own."""
    url = url_of(tmp_path, 'own')
    registry = start(
        tmp_path, url=url, **{'sqlasession.engine.pool_recycle': '77'}
    )
    engine = registry['sqlasession'].engine
    assert str(engine.url) == url
    assert engine.pool._recycle == 77


def test_an_unknown_option_of_the_engine(tmp_path):
    """Section 2: what create_engine does not know is named."""
    text = refused(
        tmp_path, url=URL, **{'sqlasession.engine.pool_sise': '7'}
    )
    assert text.count('sqlasession.') == 2
    assert "sqlasession.engine.pool_sise = '7' " in text
    assert text.endswith('did you mean sqlasession.engine.pool_size?')


def test_a_second_url(tmp_path):
    """Section 2: no option of the engine replaces ``url``, unseen."""
    text = refused(tmp_path, url=URL, **{'sqlasession.engine.url': URL})
    assert "sqlasession.engine.url = '(not shown)': must not be set" in text


@pytest.mark.parametrize('url', [
    'sqlite://', 'postgresql+psycopg://h/db', 'mysql+pymysql://h/db',
])
def test_an_isolation_level_that_there_is_none_of(tmp_path, url):
    """Section 2: found at the start, and not by the first visitor."""
    option = 'sqlasession.engine.isolation_level'
    text = refused(tmp_path, url=url, **{option: 'SERIALIZBLE'})
    assert f"{option} = 'SERIALIZBLE': must be one of " in text
    assert ', SERIALIZABLE' in text


def test_an_option_of_the_engine_like_no_other(tmp_path):
    """Section 2: if nothing is near, nothing is guessed."""
    text = refused(tmp_path, url=URL, **{'sqlasession.engine.zzz': '7'})
    assert "sqlasession.engine.zzz = '7' " in text
    assert text.endswith('sqlalchemy.create_engine')


def test_a_bad_option_of_the_engine(tmp_path):
    """Section 2: its key and its value are named, and no other ones."""
    text = refused(tmp_path, url=URL, **{
        'sqlasession.engine.pool_size': 'many',
        'sqlasession.engine.pool_recycle': '7',
        # Known to create_engine, and near to 'echo'.
        'sqlasession.engine.echo_pool': 'false',
    })
    assert "sqlasession.engine.pool_size = 'many' " in text
    assert 'pool_recycle' not in text
    assert text.endswith('sqlalchemy.create_engine')


@pytest.mark.parametrize(('option', 'value', 'allowed'), [
    ('query_cache_size', 'many', 'must be a whole number'),
    ('query_cache_size', '-1', 'must be at least 0'),
    ('label_length', '0', 'must be at least 1'),
    ('hide_parameters', 'maybe', 'must be true or false'),
    ('poolclass', 'sqlalchemy.pool.NoPool', 'a class of pools'),
    ('poolclass', 'sqlalchemy.create_engine', 'a class of pools'),
    ('execution_options', '{}', 'must be a dict'),
])
def test_an_option_of_the_engine_of_the_wrong_kind(
    tmp_path, option, value, allowed
):
    """Section 2: nothing waits for the first request to fail."""
    key = f'sqlasession.engine.{option}'
    text = refused(tmp_path, url=URL, **{key: value})
    assert text.startswith(f'{key} = {value!r}: ')
    assert allowed in text


def test_an_option_of_the_engine_that_is_a_url(tmp_path):
    """Section 2: a URL under the wrong key shows no password."""
    url = f'postgresql://web:{HIDDEN}@db/shop'
    key = 'sqlasession.engine.poolclass'
    text = refused(tmp_path, url=URL, **{key: url})
    assert text.startswith(f"{key} = 'postgresql://(not shown)@db/shop': ")
    assert HIDDEN not in text


def test_arguments_of_the_driver_as_text(tmp_path):
    """Section 2: what may hold a password is not shown."""
    key = 'sqlasession.engine.connect_args'
    text = refused(tmp_path, url=URL, **{key: HIDDEN})
    assert text.startswith(f'{key} = (not shown): must be a dict')


def test_options_of_the_engine_as_text(tmp_path):
    """Section 2: an ini file can say them; an empty one is not set."""
    registry = start(tmp_path, url=url_of(tmp_path, 'own'), **{
        'sqlasession.engine.poolclass': ' sqlalchemy.pool.NullPool',
        'sqlasession.engine.hide_parameters': 'false',
        'sqlasession.engine.query_cache_size': '0',
        'sqlasession.engine.label_length': '20',
        'sqlasession.engine.pool_size': '  ',
    })
    engine = registry['sqlasession'].engine
    assert type(engine.pool) is sa.pool.NullPool
    assert engine.hide_parameters is False
    assert engine.dialect.label_length == 20
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.literal(1).label('n' * 40))) == 1


@pytest.mark.parametrize(
    ('option', 'value', 'words'),
    [('pool_size', 'many', "sqlalchemy.pool_size = 'many' "),
     ('pool_sise', '7', 'did you mean sqlalchemy.pool_size?'),
     # That of an application that makes its engines by itself.
     ('replica.url', URL, 'sqlalchemy.replica.url = ')],
)
def test_a_bad_option_of_the_application(tmp_path, option, value, words):
    """Section 2: of sqlalchemy.*, too, the key is named, and a way out."""
    text = refused(tmp_path, **{f'sqlalchemy.{option}': value})
    assert words in text
    assert 'makes its engine in another way, set sqlasession.engine' in text
    # It blames no setting of ours.
    assert text.count('sqlasession.') == 1


def make_url(registry):
    return 'postgresql://u:geheim@h/db'


def fail_with_url(registry):
    raise RuntimeError(make_url(registry))


@pytest.mark.parametrize('function', [make_url, fail_with_url])
def test_a_function_of_the_engine_tells_no_password(tmp_path, function):
    """Section 1: neither by what it gives nor by its error."""
    text = refused(tmp_path, engine=function)
    assert 'postgresql://' in text
    assert 'geheim' not in text


def test_a_secret_option_of_the_engine(tmp_path):
    """Section 1: an unknown option that may be a secret is named only."""
    text = refused(
        tmp_path, url=URL, **{'sqlasession.engine.password': HIDDEN}
    )
    assert 'sqlasession.engine.password = (not shown) ' in text
    assert HIDDEN not in text


@pytest.mark.parametrize(
    'key', ['sqlasession.url', 'sqlalchemy.url', 'sqlasession.engine']
)
def test_an_asynchronous_driver(tmp_path, key):
    """Section 2: one that cannot work is an error at start-up."""
    pytest.importorskip('psycopg')
    value = url = 'postgresql+psycopg_async://ann:pass-word@127.0.0.1/x'
    if key == 'sqlasession.engine':
        value = sa.create_engine(url)
    settings = {'sqlalchemy.url': None, key: value}
    text = refused(tmp_path, **settings)
    assert f'{key} = postgresql+psycopg_async' in text
    assert 'asynchronous' in text
    assert 'pass-word' not in text


def test_an_application_without_dbsession(tmp_path):
    """Section 2: it gets an engine from sqlalchemy.*, and works."""
    def configure(config):
        config.add_route('any', '/')
        config.add_view(count, route_name='any')

    registry = start(tmp_path, configure=configure, create_table='true')
    assert registry['sqlasession'].engine.url.database.endswith('app.sqlite')
    assert two_visits(registry) == ['1', '2']


@on_sqlite
def test_another_name_of_the_dbsession(make_site):
    """Section 2: dbsession names the request's attribute."""
    def configure(config):
        config.add_request_method(
            lambda request: request.dbsession, 'db', reify=True
        )

    site = make_site(dbsession='db', configure=configure)
    used = {}

    @sa.event.listens_for(site.engine, 'before_cursor_execute')
    def note(connection, cursor, statement, *args):
        if statement.startswith('INSERT'):
            used[statement.split()[2]] = id(cursor.connection)

    @site.view
    def add(request):
        request.db.add(Note(text='x'))
        request.session['n'] = 1

    site.browser().get('/add')
    assert site.data() == {'n': 1}
    assert site.notes() == ['x']
    assert used['notes'] == used['sessions']


@on_sqlite
def test_extend_default_fields_by_name(make_site):
    """Section 2: the dotted name of f(defaults, session, request)."""
    site = make_site(
        extend_default_fields=f'{__name__}.extended',
        additional_fields='a: Integer\nnote: String(5)',
    )

    @site.view
    def add(request):
        request.session.update(a=1, b='x')

    site.browser().get('/add')
    (row,) = site.rows()
    assert (row['a'], row['note']) == (1, 'x')


# -- several applications -----------------------------------------------------

def count(request):
    """A view that counts its visits."""
    request.session['n'] = request.session.get('n', 0) + 1
    assert type(request.session) is SQLASession
    return Response(str(request.session['n']))


def two_visits(registry):
    """Return the answers to two requests of one browser."""
    app = Router(registry)
    first = Request.blank('/').get_response(app)
    second = Request.blank('/')
    second.headers['Cookie'] = first.headers['Set-Cookie'].partition(';')[0]
    return [first.text, second.get_response(app).text]


def test_late_settings_count(tmp_path):
    """Section 2: settings made after the include still count."""
    registry = start(
        tmp_path, table_name='early', secret='early',
        late={
            'sqlasession.table_name': 'late', 'sqlasession.secret': 'a b',
            'sqlasession.cookie_name': 'late',
            'sqlasession.additional_fields': 'user_id: Integer',
        },
    )
    application = registry['sqlasession']
    assert application.records.table.name == 'late'
    assert 'user_id' in application.records.table.c
    assert application.settings.secret == ('a', 'b')
    assert application.settings.cookie_name == 'late'


def test_late_settings_of_another_include(tmp_path):
    """Section 2: also those that another includeme makes."""
    def configure(config):
        def includeme(config):
            config.add_settings({'sqlasession.cookie_name': 'later'})
            config.registry.settings['sqlasession.expiration'] = '1h'

        config.include(includeme)

    settings = start(tmp_path, configure=configure)['sqlasession'].settings
    assert (settings.cookie_name, settings.expiration) == ('later', 3600)


@pytest.mark.parametrize('given', [{}, {'secret': 'old'}])
def test_settings_after_the_commit(tmp_path, given):
    """Section 2: they are refused, as nothing would read them."""
    with pytest.raises(ConfigurationError) as refused:
        start(
            tmp_path, configure=lambda config: config.commit(),
            late={'sqlasession.secret': 'a secret'}, **given,
        )
    text = str(refused.value)
    assert 'sqlasession.secret was set, or changed, when' in text
    assert 'config.commit()' in text
    assert 'a secret' not in text


def test_the_same_settings_after_the_commit(tmp_path):
    """Section 2: what says nothing new is no error."""
    late = {'sqlasession.expiration': '1h', 'other.expiration': '2h'}
    registry = start(
        tmp_path, configure=lambda config: config.commit(), late=late,
        expiration='1h',
    )
    assert registry['sqlasession'].settings.expiration == 3600


def test_wrong_late_settings(tmp_path):
    """Section 2: and they fail at start-up as the early ones do."""
    with pytest.raises(ConfigurationError, match='expiration'):
        start(tmp_path, late={'sqlasession.expiration': 'soon'})


@pytest.mark.parametrize('how', [
    'twice', 'nested', 'prefixed', 'committed', 'direct', 'another'
])
def test_including_twice(tmp_path, how):
    """Section 3: including twice is a no-op."""
    def configure(config):
        def includeme(config):
            config.include('pyramid_sqlasession')

        if how == 'committed':
            config.commit()
            before = config.registry['sqlasession']
            pyramid_sqlasession.includeme(config)
            config.commit()
            assert config.registry['sqlasession'] is before
        if how in ('twice', 'committed'):
            config.include('pyramid_sqlasession')
            config.include('pyramid_tm')
        elif how == 'nested':
            config.include(includeme)
        elif how == 'direct':
            pyramid_sqlasession.includeme(config)
        elif how == 'another':
            # As pyramid.testing and some frameworks do.
            other = Configurator(registry=config.registry)
            other.include('pyramid_sqlasession')
            other.commit()
        else:
            config.include(includeme, route_prefix='/admin')
        config.add_route('any', '/')
        config.add_view(count, route_name='any')

    registry = start(tmp_path, configure=configure, create_table='true')
    assert two_visits(registry) == ['1', '2']
    category = registry.introspector.get_category('pyramid_sqlasession')
    assert len(category) == 1


@on_sqlite
def test_two_applications_in_one_process(make_site):
    """Section 3: they share nothing but what their settings share."""
    one = make_site(
        cookie_name='one', table_name='first', expiration='1h', secret='a',
        additional_fields='user_id: Integer', max_size='1KiB',
    )
    two = make_site(
        cookie_name='two', table_name='second', serializer=Upside(),
        additional_fields='note: String(9)',
    )
    browsers = []
    for site in (one, two):

        @site.view
        def add(request):
            session = request.session
            session['n'] = session.get('n', 0) + 1
            session['user_id'], session['note'] = 7, 'x'
            return session['n']

        browser = site.browser()
        # A browser sends the cookies of both.
        for other in browsers:
            for cookie in other.cookiejar:
                browser.cookiejar.set_cookie(cookie)
        browsers.append(browser)
        assert [browser.get('/add').text for _ in range(2)] == ['1', '2']
    (first,), (second,) = one.rows(), two.rows()
    assert first['user_id'] == 7
    assert 'note' not in first
    assert second['note'] == 'x'
    assert second['data'].startswith('}')
    assert first['expires'] < second['expires']
    assert one.application.engine is not two.application.engine
    assert one.application.now is not two.application.now


class Upside:
    """A serializer of the application."""

    def dumps(self, data):
        return json.dumps(data).encode()[::-1]

    def loads(self, raw):
        return json.loads(raw[::-1])


@on_sqlite
def test_applications_may_share_a_table(make_site):
    """Section 3: with the same settings, a session is one in both."""
    one, two = make_site(), make_site()
    for site in (one, two):

        @site.view
        def add(request):
            request.session['n'] = request.session.get('n', 0) + 1
            return request.session['n']

    browser = one.browser()
    assert browser.get('/add').text == '1'
    assert two.browser(like=browser).get('/add').text == '2'
    assert browser.get('/add').text == '3'


def test_the_cleaner_of_one_application_is_its_own(tmp_path):
    """Section 3: stopping one application's cleaner leaves the other's."""
    registries = []
    for name in ('one', 'two'):
        registries.append(start(
            tmp_path, check_expiration_interval='1h',
            url=url_of(tmp_path, name),
        ))
    first, second = (registry['sqlasession'] for registry in registries)
    assert first.cleaner.is_running
    stop_expiring_sessions(registries[0])
    assert not first.cleaner.is_running
    assert second.cleaner.is_running
    stop_expiring_sessions(registries[1])
    for application in (first, second):
        application.engine.dispose()
