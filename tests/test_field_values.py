"""Which values an additional field takes, keeps and finds (D3)."""

import datetime as dt
from decimal import Decimal
import enum
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects import postgresql
import webob.exc

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionFieldError

from .failing import on_sqlite
from .fields import field
from .fields import refused
from .fields import run
from .naming import shown
from .site import Note

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
    ('Numeric(20)', Decimal(10**15 + 1), 'at most 15 digits, as SQLite'),
    ('Numeric(20)', 10**19 + 1, 'at most 15 digits'),
    ('Numeric(20, 8)', Decimal('1234567.123456789e2'), 'at most 15 digits'),
    ('Numeric', Decimal('-1.000000000000001'), 'at most 15 digits'),
    ('Numeric(20, asdecimal=False)', 10**15 + 1, 'at most 15 digits'),
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
    ('Float', 2**53 + 1, 'an int that a float has exactly'),
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


@on_sqlite
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


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize(('item', 'value', 'words'), [
    # JSON takes a dict and a list.
    (sa.Integer(), {'a': 1}, 'takes a list'),
    (sa.Integer(), ['seven'], 'a list whose items fit: an int'),
    (sa.Integer(), [7, None, 1.5], 'a list whose items fit: an int'),
    (sa.Integer(), [[7], [True]], 'a list whose items fit: an int'),
    (sa.Integer(), [2**31], 'a list whose items fit: an int of 32 bits'),
    (sa.String(4), ['fives'], 'a list whose items fit: at most 4'),
    (postgresql.JSONB(), [[1], [{1, 2}]], 'a list whose items fit: what JSON'),
], ids=shown)
def test_value_that_does_not_fit_an_array(make_site, item, value, words):
    """D3: nor does a list fit of which an item does not."""
    site = make_site(additional_fields={'extra': sa.ARRAY(item)})
    error = refused(
        site, lambda request: request.session.update(extra=value), words
    )
    assert (error.field, error.value) == ('extra', value)
    assert site.rows() == []


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('value', [['a'], {'a': 1}, {'a': ['b']}], ids=shown)
def test_value_that_does_not_fit_an_hstore(make_site, value):
    """D3: it takes texts alone, and a driver fails over all else."""
    site = make_site(
        additional_fields={'extra': postgresql.HSTORE()}, create=False
    )
    with site.outside.begin() as connection:
        connection.execute(sa.text('CREATE EXTENSION hstore'))
        site.application.records.create_table(connection)
    refused(
        site, lambda request: request.session.update(extra=value),
        'takes a dict',
    )
    assert site.rows() == []
    texts = {'a': '1', 'b': None}
    run(site, lambda request: request.session.update(extra=texts))
    assert field(site, 'extra') == texts


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize(('item', 'value', 'kept'), [
    (sa.Integer(), [7, None, -8], [7, None, -8]),
    (sa.Integer(), [], []),
    (sa.Integer(), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    (postgresql.JSONB(), [{'a': [1]}, 2], [{'a': [1]}, 2]),
    (
        # In UTC, whatever the time zone of the connection (E4).
        sa.DateTime(timezone=True), [dt.datetime(2026, 1, 2, 3)],
        [dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)],
    ),
], ids=shown)
def test_value_that_fits_an_array(make_site, item, value, kept):
    """D3: each item is kept as a field of its type keeps it."""
    site = make_site(additional_fields={'extra': sa.ARRAY(item)})
    site.set_time_zone('Asia/Tokyo', '+09:00')
    run(site, lambda request: request.session.update(extra=value))
    assert field(site, 'extra') == kept


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


# -- values that are found again ----------------------------------------------

FOUND = [
    ('Float', 0.1), ('FLOAT', 0.1), ('Numeric', Decimal('.1')),
    ('Time', dt.time(1, 2, 3, 4)),
    ('DateTime', dt.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ('Interval', dt.timedelta(microseconds=7)),
    ('TIME', dt.time(1, 2, 3, 4)),
    ('TIMESTAMP', dt.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ('TIMESTAMP', dt.datetime(1950, 1, 2)),
    ('TIMESTAMP', dt.datetime(2150, 1, 2)),
    ('Numeric(18, 3)', Decimal('999999999999.999')), ('Numeric(25)', 10**20),
    ('Numeric(25, asdecimal=False)', 10**20), ('Float', 10**20),
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
    """Assert that a field of this type keeps and finds *value*; return the
    site.
    """
    site = make_site(additional_fields=f'extra: {declared}')
    run(site, lambda request: request.session.update(extra=value))

    @site.view
    def find(request):
        return len(request.session_store.find(extra=value))

    assert site.browser().get('/find').text == '1'
    return site


class Moment(dt.datetime):
    """A datetime of another class, as libraries have them."""


class NoMoment(dt.datetime):
    """A datetime that is none, as pandas' NaT is."""

    year = property(lambda self: float('nan'))


class Hours(dt.timedelta):
    """A timedelta whose days have the sign of the whole, as pendulum's do."""

    @property
    def days(self):
        return int(self.total_seconds() / 86400)


class Ratio(float):
    """A float that is written as another thing, as numpy's are."""

    def __repr__(self):
        return f'Ratio({super().__repr__()})'


class Level(enum.IntEnum):
    """An int that is an Enum."""

    HIGH = 3


class Key(uuid.UUID):
    """A UUID of another class."""


class Word(str):
    """A str whose methods say something else, as Markup's do."""

    def __str__(self):
        return 'something else'


@pytest.mark.parametrize(('declared', 'value', 'base'), [
    ('DateTime(timezone=True)', Moment(2026, 7, 1, tzinfo=dt.UTC),
     dt.datetime(2026, 7, 1, tzinfo=dt.UTC)),
    ('DateTime', Moment(2026, 7, 1), dt.datetime(2026, 7, 1)),
    ('Interval', Hours(hours=-1), dt.timedelta(hours=-1)),
    ('Float', Ratio(1.5), 1.5), ('Integer', Level.HIGH, 3),
    ('Uuid', Key(int=5), uuid.UUID(int=5)), ('String(9)', Word('a'), 'a'),
    ('Enum("a", "b", name="letter")', Word('a'), 'a'),
], ids=lambda value: type(value).__name__)
def test_a_value_of_a_subclass_is_found_again(
    make_site, declared, value, base
):
    """D3, R6: as one of its base type, whatever the class of it says."""
    site = check_found(make_site, declared, value)

    @site.view
    def find_base(request):
        return len(request.session_store.find(extra=base))

    assert site.browser().get('/find_base').text == '1'


class LevelType(sa.Integer):
    """A type of the application that stores the value of an Enum."""

    def bind_processor(self, dialect):
        return lambda level: level.value


class OwnText(sa.String):
    """A type of the application that has nothing of its own."""


@on_sqlite
@pytest.mark.parametrize(('declared', 'value'), [
    (f'{__name__}.LevelType', Level.HIGH), (f'{__name__}.OwnText', Word('a')),
], ids=['LevelType', 'OwnText'])
def test_what_a_type_of_the_application_gets(make_site, declared, value):
    """D3: the value that it works with, but of a text the text."""
    check_found(make_site, declared, value)


@on_sqlite
def test_a_value_of_a_subclass_that_is_none(make_site):
    """D3: it is refused before the database is asked."""
    site = make_site(additional_fields='extra: DateTime')
    refused(
        site, lambda request: request.session_store.find(extra=NoMoment.now()),
        'a datetime',
    )


@pytest.mark.parametrize('kind', [int, Decimal])
def test_the_number_of_a_user_is_nobody_elses(make_site, database, kind):
    """D3: a database that does not tell two users apart takes neither."""
    site = make_site(additional_fields='account: Numeric(20)')
    users = [kind(10**19 + 1), kind(10**19 + 2)]

    def revoke(request):
        return request.session_store.revoke_where(account=users[0])

    if database.name == 'sqlite':
        refused(site, revoke, 'at most 15 digits')
        return
    for user in users:
        run(site, lambda request, u=user: request.session.update(account=u))
    site.views['revoke'] = revoke
    assert site.browser().get('/revoke').text == '1'
    assert field(site, 'account') == users[1]


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
@pytest.mark.parametrize(
    'declared', [
        f'{__name__}.IN_ANY_CASE',
        'String(20, collation="utf8mb4_general_ci")',
        'CHAR(20, collation="utf8mb4_general_ci")',
        'Text(collation="utf8mb4_general_ci")',
    ],
)
def test_what_the_application_chose_is_left_alone(make_site, declared):
    """D3: who wants no exact comparison has none."""
    site = make_site(additional_fields=f'name: {declared}')
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


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.parametrize('column', ['CHAR(32)', 'UUID'])
@pytest.mark.parametrize(('declared', 'value'), [
    ('Uuid', uuid.UUID(int=5)), ('Uuid(as_uuid=False)', str(uuid.UUID(int=5))),
])
def test_uuid_in_a_table_of_another_sqlalchemy(
    make_site, declared, value, column
):
    """D3: 2.0 makes the one column of it on MariaDB, 2.1 the other."""
    site = make_site(additional_fields=f'extra: {declared}')
    site.execute(f'ALTER TABLE sessions MODIFY extra {column}')
    run(site, lambda request: request.session.update(extra=value))

    @site.view
    def find(request):
        (found,) = request.session_store.find(extra=value)
        return found.extra

    assert site.browser().get('/find').text == str(value)


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


# -- what a refusal leaves ----------------------------------------------------


@on_sqlite
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


def _pass_on(defaults, session, request):
    return {**defaults}


@pytest.mark.parametrize('extend', [None, _pass_on], ids=['plain', 'extend'])
@pytest.mark.parametrize(
    ('declared', 'held'),
    [('String(4)', 'more than four'), ('Integer', 'seven'),
     ('String(20) not null', None)],
)
def test_what_another_release_has_stored(
    make_site, caplog, declared, held, extend
):
    """D3: it does not fit, and fails no request that leaves it alone."""
    before = make_site(additional_fields='extra: String(20)')
    settings = {} if extend is None else {'extend_default_fields': extend}
    after = make_site(
        create=False, additional_fields=f'extra: {declared}', **settings
    )

    def begin(request):
        request.session.update({'n': 0} if held is None else {'extra': held})

    @after.view
    def change(request):
        request.session['n'] = 1

    @after.view
    def spoil(request):
        request.session['extra'] = b'no such type'

    browser = after.browser(like=run(before, begin))
    browser.get('/change')
    # Once in a minute: all visitors have it.
    browser.get('/change?again')
    assert before.data() == {
        'n': 1, **({} if held is None else {'extra': held})
    }
    assert field(before, 'extra') == held
    with pytest.raises(SessionFieldError, match='extra'):
        browser.get('/spoil')
    (said,) = [
        record.getMessage() for record in caplog.records
        if 'left as it is' in record.getMessage()
    ]
    assert "'extra'" in said
    assert str(held) not in said


def test_what_a_function_makes_of_a_stored_session(make_site):
    """D3: what the application itself gives has to fit, each time."""
    before = make_site(additional_fields='extra: String(20)')
    after = make_site(
        create=False, additional_fields='extra: String(4)',
        extend_default_fields=lambda *given: {'extra': 'too long'},
    )

    @after.view
    def change(request):
        request.session['n'] = 1

    browser = after.browser(
        like=run(before, lambda request: request.session.update(extra='a'))
    )
    with pytest.raises(SessionFieldError, match='extra'):
        browser.get('/change')


@on_sqlite
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


@on_sqlite
def test_long_value_is_cut_in_the_message(make_site):
    """D3: a message that fits into a log."""
    site = make_site(additional_fields='note: String(4)')

    def view(request):
        request.session['note'] = 'x' * 100000

    assert len(str(refused(site, view, 'at most 4'))) < 300


@on_sqlite
@pytest.mark.parametrize('value', [10**5000, [{'n': 10**5000}]], ids=type)
def test_value_that_python_does_not_write_out(make_site, value):
    """D3: the message for an int of thousands of digits says what fits."""
    site = make_site(additional_fields='n: Integer')
    refused(
        site, lambda request: request.session.update(n=value), 'takes an int'
    )


# -- values that fit ----------------------------------------------------------


@on_sqlite
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


# -- what only the database knows ---------------------------------------------


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


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize(('declared', 'value'), [
    ('MACADDR', 5), ('INT4RANGE', [1, 2]),
])
def test_a_type_that_only_the_database_refuses(make_site, declared, value):
    """D3: of which type a value has to be, SQLAlchemy does not know of all."""
    site = make_site(
        additional_fields=f'extra: sqlalchemy.dialects.postgresql.{declared}'
    )
    words = rf'value of the additional fields \(extra\): .*{declared.lower()}'
    with pytest.raises(SessionError, match=words):
        run(site, lambda request: request.session.update(extra=value))
    assert site.rows() == []


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_a_moment_that_mariadb_refuses(make_site):
    """D3: whichever class the driver has for the error."""
    site = make_site(
        additional_fields='at: sqlalchemy.dialects.mysql.TIMESTAMP'
    )

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


# -- types of the application's own -------------------------------------------


class Price(sa.types.UserDefinedType):
    """A type of the application's own that holds Decimals."""

    cache_ok = True
    python_type = Decimal

    def get_col_spec(self, **kw):
        return 'VARCHAR(20)'

    def bind_processor(self, dialect):
        return str


@on_sqlite
def test_a_type_of_decimals_that_has_no_digits(make_site):
    """D3: only SQLAlchemy's own numbers are counted by their digits."""
    site = make_site(additional_fields=f'price: {__name__}.Price')
    run(site, lambda request: request.session.update(price=Decimal('1.5')))
    assert field(site, 'price') == '1.5'


class Money(sa.types.TypeDecorator):
    """Cents in the session, a text in the database."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else f'{value / 100:.2f}'

    def process_result_value(self, value, dialect):
        return None if value is None else round(float(value) * 100)


class Label(sa.types.UserDefinedType):
    """A type that does not say what its values are in Python."""

    cache_ok = True

    def get_col_spec(self, **kw):
        return 'VARCHAR(20)'

    def bind_processor(self, dialect):
        return str


@on_sqlite
@pytest.mark.parametrize(
    'value', ['new', True, 5, dt.datetime(2026, 1, 2), dt.timedelta.max],
    ids=shown,
)
def test_type_that_tells_nothing_of_its_values(make_site, value):
    """D3: they are its own affair then, and the database's."""
    site = make_site(additional_fields=f'label: {__name__}.Label')
    run(site, lambda request: request.session.update(label=value))
    assert field(site, 'label') == str(value)


@on_sqlite
def test_type_of_the_application(make_site):
    """D3: a TypeDecorator says itself what it takes."""
    site = make_site(additional_fields=f'total: {__name__}.Money')

    def view(request):
        request.session['total'] = 1999

    run(site, view)
    assert field(site, 'total') == 1999
