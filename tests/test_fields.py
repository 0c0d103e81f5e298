"""Additional fields: columns in step with the session's data (D3)."""

import datetime as dt
from decimal import Decimal
import enum
import ipaddress
import uuid

from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
import pytest
import sqlalchemy as sa

from .failing import on_sqlite
from .fields import field
from .fields import run

# -- types --------------------------------------------------------------------

AWARE = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone(
    dt.timedelta(hours=5, minutes=30)
))
TYPES = [
    ('Integer index', 7),
    ('BigInteger', 2**63 - 1),
    ('SmallInteger', -(2**15)),
    ('String(64)', 'Zoë ✓ \U0001f36a'),
    ('Text', 'x' * 5000),
    ('Text', 'ä' * 70000),
    ('Numeric(10, 2)', Decimal('12345678.25')),
    ('Numeric(5, 2)', Decimal('-999.9900')),
    ('Numeric', Decimal('1.5')),
    ('Float', 1.5),
    ('Float', 0.1),
    ('Float(asdecimal=True)', Decimal('1.5')),
    ('Numeric(asdecimal=False)', 1.5),
    ('Boolean', True),
    ('Date', dt.date(2026, 11, 23)),
    ('Time', dt.time(23, 59, 58)),
    ('Time', dt.time(23, 59, 58, 123456)),
    ('DateTime', dt.datetime(2026, 1, 2, 3, 4, 5)),
    ('DateTime', dt.datetime(2026, 1, 2, 3, 4, 5, 999999)),
    ('LargeBinary', b'\x00\xff bytes'),
    ('LargeBinary(16)', bytes(16)),
    ('LargeBinary', b'x' * 70000),
    ('Uuid', uuid.UUID(int=5)),
    ('Uuid(as_uuid=False)', str(uuid.UUID(int=5))),
    ('JSON', {'a': [1, None, 'x'], 'b': {}}),
    ('JSON', [1, 2]),
    ('Enum("red", "green", name="colour")', 'green'),
    ('sqlalchemy:String(5)', 'five!'),
    ('Interval', dt.timedelta(days=-3, seconds=7)),
    ('Interval', dt.timedelta(days=2932896, seconds=86399)),
    ('Interval', dt.timedelta(days=-719162)),
    ('Interval', dt.timedelta(seconds=1, microseconds=1)),
    ('Double', -1.7976931348623157e308),
    ('pyramid_sqlasession.model.UTCDateTime', AWARE),
]


@pytest.mark.parametrize(('declared', 'value'), TYPES)
def test_field_of_type(make_site, declared, value):
    """D3: declared in the ini, stored and brought back as it was."""
    site = make_site(additional_fields=f'extra: {declared}')

    def view(request):
        request.session['extra'] = value

    run(site, view)
    found = field(site, 'extra')
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_field_of_a_type_of_one_database(make_site):
    """D3: a dotted name gives the types of the database's own dialect."""
    site = make_site(
        additional_fields='ip: sqlalchemy.dialects.postgresql.INET index'
    )

    def view(request):
        request.session['ip'] = '192.168.1.7'

    run(site, view)
    assert str(field(site, 'ip')) == '192.168.1.7'

    @site.view
    def find(request):
        (found,) = request.session_store.find(ip='192.168.1.7')
        return ipaddress.ip_address(str(found.ip))

    assert site.browser().get('/find').text == '192.168.1.7'


MOMENTS = [
    'DateTime', 'DateTime(timezone=True)', 'TIMESTAMP',
    'pyramid_sqlasession.model.UTCDateTime',
]


@pytest.mark.parametrize(
    ('zone', 'offset'), [('UTC', '+00:00'), ('Asia/Tokyo', '+09:00')],
    ids=['utc', 'tokyo'],
)
@pytest.mark.parametrize('declared', MOMENTS)
def test_aware_datetime_is_the_same_instant(
    make_site, declared, zone, offset
):
    """E4: an aware datetime is stored as UTC, whatever the connection's."""
    site = make_site(additional_fields=f'seen: {declared}')
    site.set_time_zone(zone, offset)

    def view(request):
        request.session['seen'] = AWARE

    run(site, view)
    found = field(site, 'seen')
    assert found.replace(tzinfo=found.tzinfo or dt.UTC) == AWARE


@pytest.mark.parametrize('declared', MOMENTS)
def test_naive_datetime_is_utc(make_site, process_zone, declared):
    """E4: whatever the time zone of the process and of the connection."""
    naive = dt.datetime(2026, 1, 2, 3, 4, 5)
    site = make_site(additional_fields=f'seen: {declared}')
    site.set_time_zone('Asia/Tokyo', '+09:00')
    process_zone('America/Lima')

    @site.view
    def find(request):
        return len(request.session_store.find(seen=naive))

    run(site, lambda request: request.session.update(seen=naive))
    found = field(site, 'seen')
    assert found.replace(tzinfo=found.tzinfo or dt.UTC) == naive.replace(
        tzinfo=dt.UTC
    )
    assert site.browser().get('/find').text == '1'


class Autumn(dt.tzinfo):
    """The hour that comes twice when a clock is put back."""

    def utcoffset(self, moment):
        return dt.timedelta(hours=1 if moment.fold else 2)

    def dst(self, moment):
        return dt.timedelta(hours=0 if moment.fold else 1)


def test_the_hour_that_comes_twice(make_site):
    """D3: for Python both moments are equal, but they are not the same."""
    first = dt.datetime(2026, 10, 25, 2, 30, tzinfo=Autumn())
    second = first.replace(fold=1)
    assert first == second
    site = make_site(additional_fields='''
        begin_at: pyramid_sqlasession.model.UTCDateTime
        end_at: pyramid_sqlasession.model.UTCDateTime
    ''')
    run(site, lambda request: request.session.update(
        begin_at=first, end_at=second,
    ))
    assert field(site, 'end_at') - field(site, 'begin_at') == dt.timedelta(
        hours=1
    )


class Level(enum.IntEnum):
    LOW = 1


class Colour(enum.StrEnum):
    RED = 'red'


class Stamp(dt.datetime):
    """A datetime of a library, as those of pendulum or freezegun."""


class Blob(bytes):
    """Bytes of a library."""


class Amount(Decimal):
    """A Decimal of a library."""


class Real(float):
    """A float of a library, as numpy's."""


class Day(dt.date):
    """A date of a library."""


SUBCLASSES = [
    ('Integer', Level.LOW, 1),
    ('String(8)', Colour.RED, 'red'),
    ('DateTime', Stamp(2026, 1, 2, 3, 4, 5),
     dt.datetime(2026, 1, 2, 3, 4, 5)),
    ('Date', Day(2026, 1, 2), dt.date(2026, 1, 2)),
    ('LargeBinary', Blob(b'blob'), b'blob'),
    ('Numeric(6, 2)', Amount('1.25'), Decimal('1.25')),
    ('Float', Real(1.5), 1.5),
]


@pytest.mark.parametrize(('declared', 'value', 'plain'), SUBCLASSES)
def test_subclass_is_stored_as_its_base_type(
    make_site, declared, value, plain
):
    """D3, R6: an IntEnum fits an Integer, on every driver."""
    site = make_site(additional_fields=f'extra: {declared}')

    def view(request):
        request.session['extra'] = value

    run(site, view)
    assert field(site, 'extra') == plain
    assert type(field(site, 'extra')) is type(plain)


# -- in step with the data ----------------------------------------------------


def pop_all(session):
    while session:
        session.popitem()


def replace_by_ior(session):
    session |= {'user_id': 9}


MUTATIONS = [
    (lambda s: s.__setitem__('user_id', 9), 9),
    (lambda s: s.update({'user_id': 9}), 9),
    (lambda s: s.update(user_id=9), 9),
    (lambda s: s.update([('user_id', 9)]), 9),
    (replace_by_ior, 9),
    (lambda s: s.setdefault('user_id', 9), 7),
    (lambda s: s.pop('user_id'), None),
    (lambda s: s.pop('user_id', None), None),
    (lambda s: s.__delitem__('user_id'), None),
    (lambda s: s.__setitem__('user_id', None), None),
    (pop_all, None),
    (lambda s: s.clear(), None),
    (lambda s: (s.clear(), s.setdefault('user_id', 9)), 9),
    (lambda s: (s.pop('user_id'), s.__setitem__('user_id', 7)), 7),
]
MUTATION_IDS = [
    'setitem', 'update', 'kwargs', 'pairs', 'ior', 'setdefault', 'pop',
    'pop-default', 'del', 'none', 'popitem', 'clear', 'clear-setdefault',
    'pop-set',
]


@on_sqlite
@pytest.mark.parametrize(
    ('mutate', 'after'), MUTATIONS, ids=MUTATION_IDS
)
def test_field_follows_each_mutation(site, mutate, after):
    """D3: however the data was changed, the column has the same value."""

    def begin(request):
        request.session.update(user_id=7, other=1)

    browser = run(site, begin)
    run(site, lambda request: mutate(request.session) and None, browser)
    assert field(site, 'user_id') == after


@on_sqlite
@pytest.mark.parametrize(
    ('first', 'after'),
    [
        (lambda s: s.setdefault('user_id', 9), 9),
        (lambda s: s.update(user_id=9), 9),
        (lambda s: s.__setitem__('other', 1), None),
    ],
    ids=['setdefault', 'update', 'other'],
)
def test_field_of_a_new_session(site, first, after):
    """D3: inserted with the record."""
    run(site, lambda request: first(request.session) and None)
    assert field(site, 'user_id') == after


def test_field_follows_a_change_inside_of_a_value(make_site):
    """D3, R7: a JSON field follows its list without ``changed()``."""
    site = make_site(additional_fields='tags: JSON')

    def begin(request):
        request.session['tags'] = ['a']

    def grow(request):
        request.session['tags'].append('b')

    run(site, grow, run(site, begin))
    assert field(site, 'tags') == ['a', 'b']


@on_sqlite
def test_field_is_kept_by_a_read_and_a_touch(site):
    """D3, C3: reading changes no field."""

    def begin(request):
        request.session['user_id'] = 7

    browser = run(site, begin)
    site.clock.advance(minutes=10)
    run(site, lambda request: request.session['user_id'] and None, browser)
    assert field(site, 'user_id') == 7


@on_sqlite
def test_field_is_reset_by_invalidate(site):
    """D3: the session after ``invalidate()`` belongs to nobody."""

    def begin(request):
        request.session['user_id'] = 7

    def anew(request):
        request.session.invalidate()
        request.session['other'] = 1

    run(site, anew, run(site, begin))
    assert field(site, 'user_id') is None


def test_field_is_kept_by_rotate(site):
    """D3: the token changes, the owner does not."""

    def begin(request):
        request.session['user_id'] = 7

    browser = run(site, begin)
    old = field(site, 'secret_hash')
    run(site, lambda request: request.session.rotate(), browser)
    assert field(site, 'secret_hash') != old
    assert field(site, 'user_id') == 7


@on_sqlite
def test_field_is_taken_back_by_an_abort(site):
    """D3, T2: the column belongs to the transaction as the data do."""

    def begin(request):
        request.session['user_id'] = 7

    def fail(request):
        request.session['user_id'] = 8
        request.tm.doom()

    run(site, fail, run(site, begin))
    assert field(site, 'user_id') == 7


def test_field_after_a_merge_is_that_of_the_merged_data(site, stage):
    """D3, C1: A sets another key while B logs in: the column is B's."""

    def begin(request):
        request.session['n'] = 1

    browser = run(site, begin)

    @site.view
    def slow(request):
        request.session['slow'] = True
        stage.reach('slow')

    slow_one = stage.run(site.browser(like=browser).get, '/slow')
    stage.wait('slow')

    def own(request):
        request.session['user_id'] = 7

    run(site, own, browser)
    stage.let('slow')
    slow_one.result()
    assert field(site, 'user_id') == 7
    assert site.data() == {'n': 1, 'slow': True, 'user_id': 7}


@on_sqlite
def test_field_of_data_changed_by_an_exception_view(make_site):
    """D3, T3: what an exception view puts in reaches the column."""

    def sorry(error, request):
        request.session['user_id'] = 9
        return Response('sorry')

    site = make_site(
        additional_fields='user_id: Integer',
        configure=lambda config: config.add_exception_view(
            sorry, context=KeyError
        ),
    )

    def begin(request):
        request.session['user_id'] = 7

    def fail(request):
        request.session['user_id'] = 8
        raise KeyError

    run(site, fail, run(site, begin))
    assert field(site, 'user_id') == 9


# -- what a line declares -----------------------------------------------------


def test_indexes_and_constraints_are_made(make_site):
    """D3: index, unique and not null of the ini are in the database."""
    site = make_site(
        additional_fields=(
            'user_id: Integer index\n\n'
            'seat: String(8) unique\n'
            'kind: String(8) not null\n'
            'both: Integer INDEX  NOT NULL'
        )
    )
    inspector = sa.inspect(site.outside)
    columns = {c['name']: c for c in inspector.get_columns('sessions')}
    indexed = {
        index['column_names'][0]: bool(index['unique'])
        for index in inspector.get_indexes('sessions')
    }
    unique = {
        constraint['column_names'][0]
        for constraint in inspector.get_unique_constraints('sessions')
    } | {name for name, is_unique in indexed.items() if is_unique}
    assert {'user_id', 'both', 'sweep'} <= set(indexed)
    assert unique == {'seat'}
    assert columns['user_id']['nullable']
    assert not columns['kind']['nullable']
    assert not columns['both']['nullable']


@on_sqlite
@pytest.mark.parametrize(
    'line', [
        'user_id', 'user_id:', ': Integer', 'user_id Integer',
        'user_id: Intger', 'user_id: Integer primary', 'user id: Integer',
        'id: Integer', 'data: Text', 'expires: DateTime', 'class: Integer',
        'user_id: Integer\nuser_id: String(3)', 'metadata: Integer',
        'user_id: String(x)', 'user_id: Integer(1, 2, 3)',
        'user_id: no.such.Type', 'user_id: select', 'user_id: String(64',
        'user_id: __import__("os").system("true")',
    ],
)
def test_field_that_cannot_be_made(make_site, line):
    """D3: a wrong line fails at start-up and names the full key."""
    with pytest.raises(ConfigurationError) as caught:
        make_site(additional_fields=line)
    assert 'sqlasession.additional_fields' in str(caught.value)


@pytest.mark.parametrize(
    ('database', 'line'),
    [
        ('sqlite', 'ip: sqlalchemy.dialects.postgresql.INET'),
        ('mariadb', 'note: String'),
        ('postgresql', 'kind: Enum("a", "b")'),
    ],
    indirect=['database'],
)
def test_field_that_this_database_cannot_have(make_site, line):
    """D3: ``create_table`` says at start-up which setting is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        make_site(additional_fields=line, create_table=True, create=False)
    assert 'sqlasession.' in str(caught.value)
