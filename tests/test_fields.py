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
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
import transaction
import webob.exc

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionMixin

from .failing import answering
from .failing import Failure
from .naming import shown
from .site import Note

ON_SQLITE = pytest.mark.parametrize('database', ['sqlite'], indirect=True)


def run(site, function, browser=None, **kwargs):
    """Run *function* as a view; return the browser."""
    site.views['run'] = function
    browser = browser or site.browser()
    browser.get('/run', **kwargs)
    return browser


def field(site, name):
    """Return the value of a field of the only record."""
    (row,) = site.rows()
    return row[name]


def refused(site, function, match, browser=None):
    """Assert that *function*, a view, fails with a ``SessionFieldError``."""
    site.views['run'] = function
    with pytest.raises(SessionFieldError, match=match) as caught:
        (browser or site.browser()).get('/run')
    return caught.value


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
    'DateTime', 'DateTime(timezone=True)',
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


@ON_SQLITE
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


@ON_SQLITE
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


@ON_SQLITE
def test_field_is_kept_by_a_read_and_a_touch(site):
    """D3, C3: reading changes no field."""

    def begin(request):
        request.session['user_id'] = 7

    browser = run(site, begin)
    site.clock.advance(minutes=10)
    run(site, lambda request: request.session['user_id'] and None, browser)
    assert field(site, 'user_id') == 7


@ON_SQLITE
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


@ON_SQLITE
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


@ON_SQLITE
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


# -- values that do not fit ---------------------------------------------------

#: In their time zones the calendar has them, in UTC it has not.
EARLY = dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=5)))
LATE = dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=5)))
MISFITS = [
    ('Integer', '7', 'an int'),
    ('Integer', True, 'an int'),
    ('Integer', 7.0, 'an int'),
    ('Integer', Decimal(7), 'an int'),
    ('Integer', [7], 'an int'),
    ('Integer', 2**31, 'an int of 32 bits'),
    ('Integer', -(2**31) - 1, 'an int of 32 bits'),
    ('SmallInteger', 2**15, 'an int of 16 bits'),
    ('BigInteger', 2**63, 'an int of 64 bits'),
    ('String(4)', 7, 'a str'),
    ('String(4)', b'four', 'a str'),
    ('String(4)', 'fives', 'at most 4 characters'),
    ('String(4)', 'a\x00b', 'NUL'),
    ('Text', 'a\x00b', 'NUL'),
    ('Boolean', 1, 'a bool'),
    ('Boolean', 'true', 'a bool'),
    ('Float', True, 'a float'),
    ('Float', '1.5', 'a float'),
    ('Numeric(5, 2)', 1.5, 'a Decimal'),
    ('Numeric(5, 2)', '1.5', 'a Decimal'),
    ('Numeric(5, 2)', Decimal('1000'), '3 digits before .* and 2 after'),
    ('Numeric(5, 2)', Decimal('-123456.5'), '3 digits before'),
    ('Numeric(5, 2)', 1000, '3 digits before'),
    ('Numeric(5, 2)', Decimal('1.239'), 'and 2 after'),
    ('Numeric(5, 2)', Decimal('1e-999999'), 'and 2 after'),
    ('Numeric(5)', Decimal('1.5'), 'and 0 after'),
    ('Numeric(5, 2, asdecimal=False)', 999.999, '3 digits before'),
    ('Uuid(as_uuid=False)', 'nonsense', 'the text of a UUID'),
    ('Date', dt.datetime(2026, 1, 2), 'a date'),
    ('Date', '2026-01-02', 'a date'),
    ('DateTime', dt.date(2026, 1, 2), 'a datetime'),
    ('DateTime', 1767312000, 'a datetime'),
    ('Time', dt.timedelta(1), 'a time'),
    ('LargeBinary', 'text', 'bytes'),
    ('LargeBinary(4)', b'fives', 'at most 4 bytes'),
    ('Uuid', str(uuid.UUID(int=5)), 'UUID'),
    ('Enum("red", "green", name="colour")', 'blue', 'red, green'),
    ('Enum("red", "green", name="colour")', 1, 'a str'),
    ('Integer not null', None, 'not null'),
    ('JSON', {1, 2}, 'JSON'),
    ('JSON', [Decimal(1)], 'JSON'),
    ('JSON', {'when': dt.datetime(2026, 1, 2)}, 'JSON'),
    ('JSON', [float('inf')], 'JSON'),
    ('Interval', '90s', 'a timedelta'),
    ('Interval', 90, 'a timedelta'),
    ('Interval', dt.timedelta.max, '-719162 to 2932896 days'),
    ('Interval', dt.timedelta.min, '-719162 to 2932896 days'),
    ('Float', 10**400, 'a finite float of at most 1.8e'),
    ('Float', float('nan'), 'a finite float'),
    ('Double', 10**400, 'a finite float'),
    ('Double', float('-inf'), 'a finite float'),
    ('Numeric(5, 2)', 10**400, 'a finite Decimal'),
    ('Numeric', Decimal('1e400'), 'a finite Decimal'),
    ('Numeric', Decimal('NaN'), 'a finite Decimal'),
    ('Numeric', Decimal('sNaN'), 'a finite Decimal'),
    ('Numeric', Decimal('-Infinity'), 'a finite Decimal'),
    ('DateTime', EARLY, 'the years 1 to 9999 in UTC'),
    ('DateTime(timezone=True)', LATE, 'the years 1 to 9999 in UTC'),
    ('pyramid_sqlasession.model.UTCDateTime', EARLY, '9999 in UTC'),
    ('pyramid_sqlasession.model.UTCDateTime', '2026-01-02', 'a datetime'),
]


@ON_SQLITE
@pytest.mark.parametrize(
    ('declared', 'value', 'words'), MISFITS,
    ids=lambda value: value if type(value) is str else shown(value)[:40],
)
def test_value_that_does_not_fit_is_refused(
    make_site, declared, value, words
):
    """D3: ``SessionFieldError`` says what fits, and nothing is stored."""
    site = make_site(additional_fields=f'extra: {declared}')

    def view(request):
        request.dbsession.add(Note(text='lost'))
        request.session['extra'] = value

    error = refused(site, view, words)
    assert error.field == 'extra'
    # A NaN equals nothing.
    assert error.value is value or error.value == value
    assert 'extra' in str(error)
    assert error.type in str(error)
    assert site.rows() == []
    assert site.notes() == []


OF_ONE = [
    ('postgresql', 'INET', 'nonsense', 'an IP address'),
    ('postgresql', 'INET', 5, 'an IP address'),
    ('postgresql', 'INET', 'fe80::1%eth0', 'an IP address'),
    ('postgresql', 'INET', '10.0.0.1/255.0.0.0', 'an IP address'),
    ('postgresql', 'CIDR', '10.0.0.1/8', 'an IP network'),
    ('mariadb', 'TINYINT', 128, 'an int of 8 bits'),
    ('mariadb', 'MEDIUMINT', 2**23, 'an int of 24 bits'),
    ('mariadb', 'INTEGER(unsigned=True)', -1, '32 bits that is not neg'),
    ('mariadb', 'INTEGER(unsigned=True)', 2**32, 'an int of 32 bits'),
]


def of_dialect(database, declared):
    """Return the line of a field with a type of the database's own."""
    dialect = {'mariadb': 'mysql'}.get(database.name, database.name)
    return f'extra: sqlalchemy.dialects.{dialect}.{declared}'


@pytest.mark.parametrize(
    ('database', 'declared', 'value', 'words'), OF_ONE, indirect=['database']
)
def test_value_that_does_not_fit_a_type_of_one_database(
    make_site, database, declared, value, words
):
    """D3: ``SessionFieldError`` says what fits, before the database does."""
    site = make_site(additional_fields=of_dialect(database, declared))
    refused(
        site, lambda request: request.session.update(extra=value), words
    )
    assert site.rows() == []


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize(
    ('declared', 'value'),
    [
        ('TINYINT', -128), ('TINYINT', 127), ('MEDIUMINT', 2**23 - 1),
        ('INTEGER(unsigned=True)', 0), ('INTEGER(unsigned=True)', 2**32 - 1),
        ('BIGINT(unsigned=True)', 2**64 - 1),
    ],
)
def test_int_of_a_type_of_one_database(make_site, database, declared, value):
    """D3: it takes all that its column has a place for."""
    site = make_site(additional_fields=of_dialect(database, declared))
    run(site, lambda request: request.session.update(extra=value))
    assert field(site, 'extra') == value


FOUND = [
    ('Float', 0.1), ('FLOAT', 0.1), ('Numeric', Decimal('.1')),
    ('Time', dt.time(1, 2, 3, 4)),
    ('DateTime', dt.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ('Interval', dt.timedelta(microseconds=7)),
    ('TIME', dt.time(1, 2, 3, 4)),
    ('TIMESTAMP', dt.datetime(2026, 1, 2, 3, 4, 5, 6)),
]


@pytest.mark.parametrize(('declared', 'value'), FOUND)
def test_value_is_found_again(make_site, declared, value):
    """D3: to the last digit, on every database."""
    check_found(make_site, declared, value)


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize(('declared', 'value'), [
    ('DATETIME', dt.datetime(2026, 1, 2, 3, 4, 5, 6)), ('BLOB', b'x' * 70000),
], ids=['DATETIME', 'BLOB'])
def test_value_of_a_type_of_mariadb_is_found_again(
    make_site, declared, value
):
    """D3: so are those of types that PostgreSQL has not."""
    check_found(make_site, declared, value)


def check_found(make_site, declared, value):
    """Assert that a field of this type keeps and finds *value*."""
    site = make_site(additional_fields=f'extra: {declared}')
    run(site, lambda request: request.session.update(extra=value))

    @site.view
    def find(request):
        return len(request.session_store.find(extra=value))

    assert site.browser().get('/find').text == '1'


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize('declared', ['NVARCHAR(20)', 'NCHAR(20)'])
def test_national_text_is_compared_exactly(make_site, declared):
    """D3: PostgreSQL has no such types, MariaDB has them."""
    site = make_site(additional_fields=f'name: {declared}')
    run(site, lambda request: request.session.update(name='aB3'))

    @site.view
    def find(request):
        return [
            len(request.session_store.find(name=name))
            for name in ('aB3', 'Ab3', 'äB3')
        ]

    assert site.browser().get('/find').text == '[1, 0, 0]'


#: Somebody's own choice for MariaDB.
IN_ANY_CASE = sa.String(20).with_variant(
    mysql.VARCHAR(20, charset='utf8mb4', collation='utf8mb4_general_ci'),
    'mysql', 'mariadb',
)


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_variant_of_the_application_is_left_alone(make_site):
    """D3: who wants no exact comparison has none."""
    site = make_site(additional_fields=f'name: {__name__}.IN_ANY_CASE')
    run(site, lambda request: request.session.update(name='aB3'))

    @site.view
    def find(request):
        return len(request.session_store.find(name='Ab3'))

    assert site.browser().get('/find').text == '1'


def test_uuid_is_found_however_it_is_written(make_site):
    """D3: in capitals, too, on every database."""
    site = make_site(additional_fields='extra: Uuid(as_uuid=False)')
    text = 'ABCDEF00-0000-0000-0000-000000000005'
    run(site, lambda request: request.session.update(extra=text))

    @site.view
    def find(request):
        return len(request.session_store.find(extra=text.lower()))

    assert site.browser().get('/find').text == '1'


@ON_SQLITE
@pytest.mark.parametrize(
    ('declared', 'value'),
    [
        ('Integer', '7'), ('Integer', 2**31), ('String(4)', 'fives'),
        ('String(4)', 'a\x00b'), ('DateTime', '2026-01-02'),
        ('Integer not null', None),
    ],
)
def test_value_that_does_not_fit_a_stored_record(make_site, declared, value):
    """D3: an UPDATE is refused as an INSERT is; the record stays as it is."""
    site = make_site(additional_fields=f'extra: {declared}')
    good = {'I': 5, 'S': 'good', 'D': dt.datetime(2026, 1, 2)}[declared[0]]

    def begin(request):
        request.session['extra'] = good

    def spoil(request):
        request.dbsession.add(Note(text='lost'))
        request.session['extra'] = value

    browser = run(site, begin)
    before = site.rows()
    refused(site, spoil, 'extra', browser)
    assert site.rows() == before
    assert site.notes() == []


@ON_SQLITE
def test_refused_value_reaches_an_exception_view(make_site):
    """D3: the application can answer the error."""
    site = make_site(
        additional_fields='user_id: Integer',
        configure=lambda config: config.add_exception_view(
            lambda error, request: webob.exc.HTTPConflict(error.field),
            context=SessionFieldError,
        ),
    )

    @site.view
    def view(request):
        request.session['user_id'] = 'seven'

    response = site.browser().get('/view', status=409)
    assert 'user_id' in response.text
    assert 'Set-Cookie' not in response.headers
    assert site.rows() == []


@ON_SQLITE
def test_long_value_is_cut_in_the_message(make_site):
    """D3: a message that fits into a log."""
    site = make_site(additional_fields='note: String(4)')

    def view(request):
        request.session['note'] = 'x' * 100000

    assert len(str(refused(site, view, 'at most 4'))) < 300


@ON_SQLITE
@pytest.mark.parametrize('value', [10**5000, [{'n': 10**5000}]], ids=type)
def test_value_that_python_does_not_write_out(make_site, value):
    """D3: the message for an int of thousands of digits says what fits."""
    site = make_site(additional_fields='n: Integer')
    refused(
        site, lambda request: request.session.update(n=value), 'takes an int'
    )


@ON_SQLITE
def test_accepted_beside_the_own_type(make_site):
    """D3: an int fits a Float and a Numeric, as no digit is lost."""
    site = make_site(additional_fields='a: Float\nb: Numeric(10, 2)')

    def view(request):
        request.session.update(a=3, b=4)

    run(site, view)
    assert (field(site, 'a'), field(site, 'b')) == (3.0, Decimal(4))


@pytest.mark.parametrize('length', [4, 255])
def test_str_of_exactly_its_length_fits(make_site, length):
    """D3: characters count, not bytes."""
    site = make_site(additional_fields=f'note: String({length})')
    text = '\U0001f36a' * length

    def view(request):
        request.session['note'] = text

    run(site, view)
    assert field(site, 'note') == text


#: Each is one that a collation may take for the first, but for the last.
ALIKE = ['aB3', 'Ab3', 'ab3', 'AB3', 'äB3', 'aB3x']


@pytest.mark.parametrize(
    'declared', [
        'String(20) index', 'Unicode(20) index', 'VARCHAR(20)', 'CHAR(20)',
        'Text', 'UnicodeText', 'TEXT',
    ],
)
def test_text_is_compared_exactly(make_site, declared):
    """D3: case and accents count, so that nobody finds another's session."""
    site = make_site(
        additional_fields=f'user_id: {declared}', max_sessions_per_user='2'
    )

    @site.view
    def find(request):
        found = request.session_store.find(user_id='aB3')
        return ' '.join(one.user_id.strip() for one in found)

    @site.view
    def revoke(request):
        return request.session_store.revoke_where(user_id='aB3')

    def stored():
        # PostgreSQL fills up a CHAR.
        return sorted(row['user_id'].strip() for row in site.rows())

    for name in ALIKE * 3:
        run(site, lambda request, n=name: request.session.update(user_id=n))
    assert stored() == sorted(ALIKE * 2)
    assert site.browser().get('/find').text == 'aB3 aB3'
    assert site.browser().get('/revoke').text == '2'
    assert stored() == sorted(ALIKE[1:] * 2)


# -- constraints --------------------------------------------------------------


@pytest.mark.parametrize('retry', [False, True], ids=['once', 'retry'])
def test_unique_field_refuses_the_second_session(make_site, retry):
    """D3: the database decides, and nothing of the second is stored."""
    site = make_site(additional_fields='seat: String(8) unique', retry=retry)
    runs = []

    def take(request):
        request.session['seat'] = '7A'

    def take_too(request):
        runs.append(1)
        request.dbsession.add(Note(text='lost'))
        request.session['seat'] = '7A'

    run(site, take)
    with pytest.raises(sa.exc.IntegrityError):
        run(site, take_too)
    # By then the view might have found that it is taken.
    assert len(runs) == (3 if retry else 1)
    assert len(site.rows()) == 1
    assert site.notes() == []


def test_a_json_field_without_a_value_is_null(make_site):
    """D3: NULL for SQL, not the null of JSON; its neighbours are stored."""
    site = make_site(
        additional_fields='tags: JSON\nuser_id: Integer\nname: String(9)'
    )

    def begin(request):
        request.session.update(user_id=7, name='Ada')

    def end(request):
        del request.session['tags']
        request.session['name'] = 'Grace'

    nulls = 'SELECT count(*) FROM sessions WHERE tags IS NULL'
    browser = run(site, begin)
    with site.outside.connect() as connection:
        assert connection.scalar(sa.text(nulls)) == 1
    assert (field(site, 'user_id'), field(site, 'name')) == (7, 'Ada')
    run(site, lambda request: request.session.update(tags=[1]), browser)
    assert field(site, 'tags') == [1]
    run(site, end, browser)
    with site.outside.connect() as connection:
        assert connection.scalar(sa.text(nulls)) == 1
    assert (field(site, 'user_id'), field(site, 'name')) == (7, 'Grace')


def test_unique_value_of_a_session_that_ends_is_free(make_site):
    """D3, E2: what begins with invalidate() may have the same value."""
    site = make_site(additional_fields='seat: String(8) unique')

    def sit(request):
        request.session.invalidate()
        request.session['seat'] = '7A'

    browser = run(site, sit)
    (before,) = site.rows()
    run(site, sit, browser)
    (after,) = site.rows()
    assert before['id'] != after['id']
    assert after['seat'] == '7A'


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('beside_data', [False, True])
def test_what_only_the_database_refuses(make_site, beside_data):
    """D3: is an error that names the fields, and what it says of them."""
    site = make_site(
        additional_fields='mac: sqlalchemy.dialects.postgresql.MACADDR'
    )

    def put(request):
        if beside_data:
            request.dbsession.scalars(sa.select(Note)).all()
        request.session['mac'] = 'nonsense'

    with pytest.raises(SessionError, match=r'\(mac\).*"nonsense"'):
        run(site, put)
    assert site.rows() == []
    for ask in (
        lambda store: store.find(mac='nonsense'),
        lambda store: store.revoke_where(mac='nonsense'),
    ):
        with pytest.raises(SessionError, match=r'\(mac\).*"nonsense"'):
            run(site, lambda request, ask=ask: ask(request.session_store))


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_moment_that_mariadb_refuses(make_site):
    """D3: whichever class the driver has for the error."""
    site = make_site(additional_fields='at: TIMESTAMP')

    def put(request):
        request.session['at'] = dt.datetime(1960, 1, 1, tzinfo=dt.UTC)

    with pytest.raises(SessionError, match=r'\(at\)'):
        run(site, put)
    assert site.rows() == []


@pytest.mark.parametrize('type_', ['Numeric', 'NUMERIC', 'DECIMAL'])
def test_a_number_without_a_precision(make_site, type_):
    """D3: no database rounds it."""
    site = make_site(additional_fields=f'sum: {type_}')
    run(site, lambda request: request.session.update(sum=Decimal('1.25')))
    assert Decimal(field(site, 'sum')) == Decimal('1.25')


class Price(sa.types.UserDefinedType):
    """A type of the application's own that holds Decimals."""

    cache_ok = True
    python_type = Decimal

    def get_col_spec(self, **kw):
        return 'VARCHAR(20)'

    def bind_processor(self, dialect):
        return str


@ON_SQLITE
def test_a_type_of_decimals_that_has_no_digits(make_site):
    """D3: only SQLAlchemy's own numbers are counted by their digits."""
    site = make_site(additional_fields=f'price: {__name__}.Price')
    run(site, lambda request: request.session.update(price=Decimal('1.5')))
    assert field(site, 'price') == '1.5'


class Paired(DeclarativeBase):
    """The base of the model below."""


class Place(SessionMixin, Paired):
    """A model with a default in a pair that is unique."""

    __tablename__ = 'sessions'
    __table_args__ = (sa.UniqueConstraint('line', 'seat'),)
    line: Mapped[int | None]
    seat: Mapped[str] = mapped_column(sa.String(8), default='any')


def test_a_default_that_an_expired_session_has(make_site):
    """E1, D3: to go back to it is to take it, too."""
    site = make_site(model=Place, expiration='1h')
    run(site, lambda request: request.session.update(line=1))
    site.clock.advance(hours=2)
    browser = run(
        site, lambda request: request.session.update(line=1, seat='7A')
    )
    run(site, lambda request: request.session.pop('seat') and None, browser)
    assert [row['seat'] for row in site.rows()] == ['any']


@ON_SQLITE
def test_a_unique_value_of_a_session_that_is_over(make_site):
    """E1: an absolute timeout that was set later frees it as well."""

    def sit(request):
        request.session['seat'] = '7A'

    fields = {'additional_fields': 'seat: String(8) unique'}
    run(make_site(expiration='30d', **fields), sit)
    site = make_site(
        expiration='1d', absolute_timeout='1d', create=False, **fields
    )
    # To the moment.
    site.clock.advance(days=1)
    run(site, sit)
    assert len(site.rows()) == 1


class Seated(DeclarativeBase):
    """The base of the model below."""


class Seat(SessionMixin, Seated):
    """A model with a pair that is unique."""

    __tablename__ = 'sessions'
    __table_args__ = (sa.UniqueConstraint('line', 'seat'),)
    line: Mapped[int | None]
    seat: Mapped[str | None] = mapped_column(sa.String(8))


SEATS = {
    'unique': {'additional_fields': 'line: Integer\nseat: String(8) unique'},
    'unique index': {
        'additional_fields': 'line: Integer\nseat: String(8) unique index'
    },
    'pair': {'model': Seat},
}


@pytest.mark.parametrize('settings', SEATS.values(), ids=SEATS)
@pytest.mark.parametrize('beside_data', [False, True])
def test_unique_value_of_an_expired_session_is_free(
    make_site, settings, beside_data
):
    """E1, D3: whether or not the cleaner has been there."""
    site = make_site(expiration='1h', **settings)

    def sit(request):
        if beside_data:
            request.dbsession.scalars(sa.select(Note)).all()
        request.session.update(line=1, seat='7A')

    def come(request):
        request.session['n'] = 1

    browser = run(site, sit)
    # To the moment.
    site.clock.advance(hours=1)
    other = run(site, sit)
    assert [row['seat'] for row in site.rows()] == ['7A']
    site.clock.advance(hours=2)
    run(site, come, browser)
    run(site, sit, browser)
    assert [row['seat'] for row in site.rows()] == ['7A']
    with pytest.raises(sa.exc.IntegrityError):
        run(site, sit, other)


@pytest.mark.parametrize('database', ['sqlite', 'postgresql'], indirect=True)
def test_a_unique_index_over_an_expression(make_site):
    """D3, E1: whose values nobody can compare deletes no other record."""
    def email(request):
        request.session['email'] = 'one@example.com'

    def email_beside_data(request):
        request.dbsession.scalars(sa.select(Note)).all()
        request.session['email'] = 'two@example.com'

    site = make_site(additional_fields='email: String(40)')
    table = site.application.records.table
    index = sa.Index('lowered', sa.text('lower(email)'), unique=True)
    table.append_constraint(index)
    try:
        site = make_site(model=site.application.model, expiration='1h')
        run(site, lambda request: request.session.update(n=1))
        site.clock.advance(hours=2)
        for view in (email, email_beside_data):
            run(site, view)
    finally:
        table.indexes.discard(index)
    assert len(site.rows()) == 3


@ON_SQLITE
def test_a_unique_value_that_stays_costs_nothing(make_site):
    """D4, D3: nobody is asked for it at another change."""
    site = make_site(additional_fields='seat: String(8) unique')
    browser = run(site, lambda request: request.session.update(seat='7A'))
    site.listen()
    run(site, lambda request: request.session.update(n=1), browser)
    assert site.statements.verbs == ['SELECT', 'UPDATE']


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_unique_value_of_an_expired_session_with_a_damaged_id(make_site):
    """E1, D3: SQLite keeps any value as an id; such a row goes, too."""
    site = make_site(
        expiration='1h', additional_fields='seat: String(8) unique'
    )

    def sit(request):
        request.session['seat'] = '7A'

    run(site, sit)
    site.execute("UPDATE sessions SET id = 'abc'")
    site.clock.advance(hours=2)
    run(site, sit)
    assert [row['seat'] for row in site.rows()] == ['7A']


def test_unique_field_allows_many_sessions_without_it(make_site):
    """D3: NULL is no value that could be taken."""
    site = make_site(additional_fields='seat: String(8) unique')

    def other(request):
        request.session['other'] = 1

    run(site, other)
    run(site, other)
    assert [row['seat'] for row in site.rows()] == [None, None]


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


# -- extend_default_fields ----------------------------------------------------


@ON_SQLITE
def test_extend_gets_defaults_session_and_request(make_site):
    """D3: called with the defaults, the session and the request."""
    calls = []

    def extend(defaults, session, request):
        calls.append((dict(defaults), dict(session), request.path))
        return defaults | {'ip': request.remote_addr}

    site = make_site(
        additional_fields='user_id: Integer\nip: String(45)',
        extend_default_fields=extend,
    )

    def view(request):
        request.session.update(user_id=7, n=1)

    run(site, view, extra_environ={'REMOTE_ADDR': '10.0.0.1'})
    assert calls == [
        ({'user_id': 7, 'ip': None}, {'user_id': 7, 'n': 1}, '/run')
    ]
    assert (field(site, 'user_id'), field(site, 'ip')) == (7, '10.0.0.1')


def test_extend_sees_what_is_going_to_be_stored(make_site, stage):
    """D3, C1: what another request stored is there, what it deleted is not."""
    seen = []

    def extend(defaults, session, request):
        if 'slow' in session:
            seen.append(dict(session))
        return defaults

    site = make_site(extend_default_fields=extend)

    def begin(request):
        request.session.update(n=1, gone=1)

    def slow(request):
        request.session['slow'] = 1
        stage.reach('changed')

    def meanwhile(request):
        del request.session['gone']
        request.session['new'] = 1

    browser = run(site, begin)
    site.views['slow'] = slow
    running = stage.run(site.browser(like=browser).get, '/slow')
    stage.wait('changed')
    run(site, meanwhile, browser)
    stage.let('changed')
    running.result()
    assert seen[0] == {'n': 1, 'gone': 1, 'slow': 1}
    assert seen[-1] == {'n': 1, 'new': 1, 'slow': 1} == site.data()


SAVES = {
    'change': lambda session: session.__setitem__('n', 2),
    'rotate': lambda session: session.rotate(),
    'set_expiry': lambda session: session.set_expiry(300),
}


@pytest.mark.parametrize('save', SAVES.values(), ids=SAVES)
@ON_SQLITE
def test_extend_is_called_at_each_save(make_site, save):
    """D3: what it takes from the request is fresh after every save."""
    site = make_site(
        additional_fields='ip: String(45)',
        extend_default_fields=lambda defaults, session, request: {
            'ip': request.remote_addr
        },
    )

    def begin(request):
        request.session['n'] = 1

    browser = run(site, begin, extra_environ={'REMOTE_ADDR': '10.0.0.1'})
    run(
        site, lambda request: save(request.session), browser,
        extra_environ={'REMOTE_ADDR': '10.0.0.2'},
    )
    assert field(site, 'ip') == '10.0.0.2'


def count_notes(defaults, session, request):
    """Return fields for which the application's database is asked."""
    found = request.dbsession.scalars(sa.select(Note)).all()
    return defaults | {'count': len(found)}


def change(request):
    """Change the session, and nothing else."""
    request.session['n'] = 1


def change_beside_data(request):
    """Change the session beside what the view has read."""
    request.dbsession.scalars(sa.select(Note)).all()
    change(request)


def change_late(request):
    """Change the session when the response is on its way."""
    request.add_response_callback(lambda request, response: change(request))


def fail(request):
    """Have an exception view change the session."""
    change_beside_data(request)
    raise Failure


@pytest.mark.parametrize(
    'view', [change, change_beside_data, change_late, fail]
)
@pytest.mark.parametrize('is_apart', [False, True])
def test_extend_may_ask_the_database(make_site, tmp_path, view, is_apart):
    """D3: with ``request.dbsession``, wherever the change is saved."""
    site = make_site(
        additional_fields='count: Integer', configure=answering(change),
        extend_default_fields=count_notes,
        engine_options=None if is_apart else {
            'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1
        },
        **{'url': f'sqlite:///{tmp_path}/own.sqlite'} if is_apart else {},
    )
    with site.outside.begin() as connection:
        connection.execute(sa.insert(Note).values(text='a note'))
    records = site.application.records.table
    for _ in range(2):
        browser = run(site, view)
        run(site, view, browser)
    with site.application.engine.connect() as connection:
        assert connection.execute(sa.select(records.c.count)).all() == [
            (1,), (1,)
        ]
    assert site.notes() == ['a note']
    assert site.engine.pool.checkedout() == 0


@pytest.mark.parametrize('manager', ['explicit', None])
def test_extend_after_a_commit_that_failed(make_site, manager):
    """D3, T3: what the exception view changes is stored all the same."""
    site = make_site(
        additional_fields='count: Integer',
        extend_default_fields=count_notes,
        configure=answering(change, sa.exc.IntegrityError),
        **{'tm.manager_hook': (
            manager and 'pyramid_tm.explicit_manager'
        )},
    )
    with site.outside.begin() as connection:
        connection.execute(sa.insert(Note).values(text='a note'))

    def add_the_same(request):
        request.session['paid'] = True
        request.dbsession.add(Note(text='a note'))

    run(site, add_the_same)
    assert site.data() == {'n': 1}
    assert field(site, 'count') == 1


@pytest.mark.parametrize('is_apart', [False, True])
@pytest.mark.parametrize('case', ['emptied', 'merged', 'renewed'])
def test_extend_may_ask_for_what_is_not_foreseen(
    make_site, tmp_path, stage, case, is_apart
):
    """D3, C1: also where the record will hold other data than the session."""
    site = make_site(
        additional_fields='count: Integer',
        extend_default_fields=count_notes, renewal_interval='1h',
        **{'url': f'sqlite:///{tmp_path}/own.sqlite'} if is_apart else {},
    )
    site.views['change'] = change

    @site.view
    def act(request):
        if case == 'emptied':
            request.session.clear()
        else:
            request.session['other'] = 1
        request.dbsession.scalars(sa.select(Note)).all()
        if case == 'merged':
            stage.reach('changed')

    browser = site.browser()
    browser.get('/change')
    if case == 'renewed':
        site.clock.advance(hours=2)
    running = stage.run(site.browser(like=browser).get, '/act')
    if case == 'merged':
        stage.wait('changed')
        site.views['change'] = lambda request: request.session.update(n=2)
        browser.get('/change')
        stage.let('changed')
    assert running.result().status_int == 200
    records = site.application.records.table
    with site.application.engine.connect() as connection:
        assert connection.scalar(sa.select(records.c.count)) == 0


@ON_SQLITE
@pytest.mark.parametrize('explicit', [False, True])
def test_extend_beside_a_transaction_of_the_tests(
    make_site, tmp_path, explicit
):
    """T0, T7, D3: no other one is begun in its place."""
    site = make_site(
        additional_fields='n: Integer', url=f'sqlite:///{tmp_path}/own.sqlite',
        extend_default_fields=lambda defaults, *_: defaults,
    )
    manager = transaction.TransactionManager(explicit=explicit)
    begun = manager.begin()
    run(site, change, extra_environ={
        'tm.active': True, 'tm.manager': manager,
    })
    assert manager.get() is begun
    manager.abort()
    with site.application.engine.connect() as connection:
        assert len(connection.execute(
            sa.select(site.application.records.table)
        ).all()) == 1


@ON_SQLITE
def test_extend_is_not_called_without_a_save(make_site):
    """D3: neither for a read nor for a touch."""
    calls = []
    site = make_site(
        additional_fields='n: Integer',
        extend_default_fields=lambda defaults, *_: (
            calls.append(1) or defaults
        ),
    )

    def begin(request):
        request.session['n'] = 1

    browser = run(site, begin)
    assert len(calls) == 1
    site.clock.advance(hours=1)
    run(site, lambda request: request.session['n'] and None, browser)
    assert len(calls) == 1


@ON_SQLITE
def test_extend_is_not_called_for_an_end(make_site):
    """D3: a logout writes no fields, and needs nothing that they need."""
    site = make_site(
        additional_fields='user_id: Integer',
        extend_default_fields=lambda defaults, session, request: {
            'user_id': session['user']
        },
    )
    browser = run(site, lambda request: request.session.update(user=7))
    assert field(site, 'user_id') == 7
    run(site, lambda request: request.session.invalidate(), browser)
    assert site.rows() == []


@ON_SQLITE
@pytest.mark.parametrize(
    ('returned', 'words'),
    [
        (None, 'must return a dict'), ([], 'must return a dict'),
        ({'usr_id': 1}, 'usr_id'), ({'user_id': 'seven'}, 'user_id'),
        ({'secret_hash': b'x' * 32}, 'secret_hash'),
        ({'expires': dt.datetime(2030, 1, 1, tzinfo=dt.UTC)}, 'expires'),
        ({'name': '\ud800'}, 'surrogate'),
    ],
    ids=['none', 'list', 'unknown', 'misfit', 'hash', 'expires', 'surrogate'],
)
def test_extend_that_returns_nonsense(make_site, returned, words):
    """D3: an error that says so, and nothing is stored."""
    site = make_site(
        additional_fields='user_id: Integer\nname: Text',
        extend_default_fields=lambda *_: returned,
    )

    def view(request):
        request.session['n'] = 1

    with pytest.raises(SessionError, match=words):
        run(site, view)
    assert site.rows() == []


@ON_SQLITE
def test_extend_that_raises(make_site):
    """D3, T1: its own error ends the request, nothing is stored."""

    def extend(*_):
        raise LookupError('no such user')

    site = make_site(extend_default_fields=extend)

    def view(request):
        request.dbsession.add(Note(text='lost'))
        request.session['n'] = 1

    with pytest.raises(LookupError, match='no such user'):
        run(site, view)
    assert site.rows() == []
    assert site.notes() == []


def extend_by_name(defaults, session, request):
    """For the dotted name in the next test."""
    return {'user_id': session['n'] * 2}


@ON_SQLITE
def test_extend_by_dotted_name(make_site):
    """D3: as an ini file says it; fields left out keep their defaults."""
    site = make_site(
        additional_fields='user_id: Integer\nn: Integer',
        extend_default_fields=f'{__name__}.extend_by_name',
    )

    def view(request):
        request.session['n'] = 4

    run(site, view)
    assert (field(site, 'user_id'), field(site, 'n')) == (8, 4)


# -- a model of the application's own -----------------------------------------


def own_models():
    """Return a new ``(Base, User, UserSession)``."""

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

    return Base, User, UserSession


@pytest.fixture
def own(make_site):
    """A site whose sessions belong to users, with a foreign key."""
    base, _, model = own_models()
    site = make_site(model=model, create=False)
    base.metadata.create_all(site.outside)
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


def test_own_model_follows_foreign_keys(own):
    """D3: a user's sessions end with the user; an unknown user is refused."""

    def view(request):
        request.session['user_id'] = 7

    browser = run(own, view)
    other = own.browser()

    def unknown(request):
        request.session['user_id'] = 8

    if own.database.name != 'sqlite':
        # SQLite has foreign keys only after a PRAGMA.
        with pytest.raises(sa.exc.IntegrityError):
            run(own, unknown, other)
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


@ON_SQLITE
def test_default_that_nobody_can_tell(make_site):
    """D3: a deleted key is NULL where a trigger makes the default."""
    site = make_site(model=with_column(
        sa.Integer, server_default=sa.FetchedValue()
    ))
    browser = run(site, lambda request: request.session.update(extra=7))
    run(site, take_back, browser)
    assert field(site, 'extra') is None


@ON_SQLITE
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


@ON_SQLITE
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


class Money(sa.types.TypeDecorator):
    """Cents in the session, a text in the database."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else f'{value / 100:.2f}'

    def process_result_value(self, value, dialect):
        return None if value is None else round(float(value) * 100)


@ON_SQLITE
def test_type_of_the_application(make_site):
    """D3: a TypeDecorator says itself what it takes."""
    site = make_site(additional_fields=f'total: {__name__}.Money')

    def view(request):
        request.session['total'] = 1999

    run(site, view)
    assert field(site, 'total') == 1999


@ON_SQLITE
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
