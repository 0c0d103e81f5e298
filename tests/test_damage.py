"""Rows that cannot be read, or not in full (R8)."""

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SQLASession

from .damaging import check_damaged
from .damaging import damage
from .damaging import raw_rows
from .failing import on_sqlite
from .meeting import logout
from .meeting import look
from .meeting import set_cookies
from .site import Note
from .visitor import state
from .visitor import Visitor

GARBAGE = [
    '', ' ', 'null', '[]', '"text"', '7', '{', '{"a":}', 'x' * 1000,
    '{"a":1}}', '{"a":{"$nonsense":1}}', '{"a":{"$int":"1e9"}}',
    '{"a":{"$set":[[1]]}}', '{"a":{"$datetime":"soon"}}',
    '{"a":{"$timedelta":[1e300]}}', 'base64:', 'base64:!!', 'base64:AAAA',
    'base64:eyJh', '[' * 100_000, '{"$dict":[]}', '{"$tuple":[1]}',
    'gAAAAABl', '\x80\x04}\x94.', "{'a': 1}", '{"a":NaN}',
    '{"a":' + '9' * 5000 + '}',
]


@pytest.mark.parametrize('data', GARBAGE, ids=lambda text: ascii(text)[:20])
def test_data_that_cannot_be_decoded(quick, caplog, data):
    """R8: empty with an error in the log; never overwritten; removable."""
    quick.store(a=1)
    damage(quick.site, data=data)
    check_damaged(quick, caplog)


def test_damage_on_each_database(visitor, caplog):
    """R8: as above, on each database."""
    visitor.store(a=1)
    damage(visitor.site, data='{"a":')
    check_damaged(visitor, caplog)


def test_damaged_and_rotated(visitor):
    """R8: a login with a damaged record starts a session beside it."""
    visitor.store(a=1)
    damage(visitor.site, data='garbage')

    def work(session):
        session.rotate()
        session['user'] = 1

    visitor.visit(work)
    assert visitor.content == {'user': 1}
    assert sorted(row['data'] for row in visitor.site.rows()) == sorted(
        ['garbage', '{"user":1}']
    )


@pytest.mark.parametrize('rotates', [False, True])
def test_the_csrf_token_of_a_login_with_a_damaged_record(quick, rotates):
    """R8, C5: whoever has planted the token of before cannot derive it."""
    quick.store(a=1)
    made = []

    def work(session):
        if made and rotates:
            session.rotate()
        made.append(session.get_csrf_token())

    quick.visit(work)
    damage(quick.site, data='garbage')
    quick.visit(work)
    before, after = made
    assert (after == before) is not rotates


def test_damaged_and_begun_anew(visitor):
    """R8: invalidate() and a write in one request: one row, the new one."""
    visitor.store(a=1)
    damage(visitor.site, data='garbage')
    visitor.visit(lambda session: (session.invalidate(), session.update(n=1)))
    assert visitor.content == {'n': 1}
    assert len(visitor.site.rows()) == 1


@on_sqlite
def test_a_logout_from_a_damaged_session_that_is_renewed(make_meeting):
    """R8, C5: repaired and renewed meanwhile, it is removed all the same."""
    meeting = make_meeting(renewal_interval='10m')
    one = meeting.visitor(n=0)
    (row,) = meeting.site.rows()
    damage(meeting.site, data='garbage')
    slow = meeting.start(one, logout)
    damage(meeting.site, data=row['data'])
    meeting.site.clock.advance(minutes=10)
    assert set_cookies(meeting.do(one, look)) != []
    slow.finish()
    assert meeting.site.rows() == []


def test_damaged_beside_a_request_in_flight(visitor, stage):
    """R8: damaged between load and save: never overwritten."""
    check_damaged_meanwhile(visitor, stage, 'garbage')


def check_damaged_meanwhile(visitor, stage, data):
    """Assert R8 for a record with these *data* between load and save."""
    visitor.store(a=1)

    @visitor.site.view
    def slow(request):
        request.session['n'] = 1
        stage.reach('changed')

    other = visitor.site.browser(like=visitor.browser)
    running = stage.run(other.get, '/slow')
    stage.wait('changed')
    damage(visitor.site, data=data, version=7)
    stage.let('changed')
    assert running.result().status_int == 200
    assert {row['data'] for row in visitor.site.rows()} == {data, '{"n":1}'}


def test_damage_that_only_touched_the_text(visitor, stage):
    """R8: with the version that was loaded the response does not fail."""
    # What becomes of the row nobody promises.
    visitor.store(a=1)

    @visitor.site.view
    def slow(request):
        request.session['n'] = 1
        stage.reach('changed')

    other = visitor.site.browser(like=visitor.browser)
    running = stage.run(other.get, '/slow')
    stage.wait('changed')
    damage(visitor.site, data='garbage')
    stage.let('changed')
    assert running.result().status_int == 200


# -- NULL, and anything else --------------------------------------------------


@pytest.fixture
def lax(make_site):
    """A browser on a site whose table takes NULL in every column."""
    site = make_site(create=False)
    table = site.application.records.table
    statement = sa.schema.CreateTable(table).compile(site.outside)
    # MariaDB's and PostgreSQL's keys are NOT NULL by themselves.
    site.execute(str(statement).replace(' NOT NULL', ''))
    Note.__table__.create(site.outside)
    site.listen()
    return Visitor(site)


NULLABLE = (
    'data', 'version', 'created', 'started', 'accessed', 'rotated',
)


@on_sqlite
@pytest.mark.parametrize('column', NULLABLE)
def test_null_where_a_value_belongs(lax, caplog, column):
    """R8: NULL in a column is damage, never a 500."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    check_damaged(lax, caplog)


@on_sqlite
def test_null_beside_a_request_in_flight(lax, stage):
    """R8: NULL instead of the data, between load and save."""
    check_damaged_meanwhile(lax, stage, None)


@on_sqlite
@pytest.mark.parametrize('column', ['secret_hash', 'expires'])
def test_null_that_makes_the_cookie_unknown(lax, caplog, column):
    """R8, R3: without hash or expiry the cookie opens nothing."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    check_damaged(lax, caplog, is_dead=True)


@on_sqlite
@pytest.mark.parametrize('column', ['sweep', 'lifetime', 'retired'])
def test_null_that_does_no_harm(lax, column):
    """R8: the session works; nobody needs these to read it."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    lax.site.clock.advance(minutes=2)
    assert lax.content == {'a': 1}
    lax.store(b=2)
    assert lax.content == {'a': 1, 'b': 2}


def test_all_null(lax, caplog):
    """R8: a row of which only id, hash and expiry are left."""
    lax.store(a=1)
    lax.site.execute(
        'UPDATE sessions SET '
        + ', '.join(f'{column} = NULL' for column in NULLABLE)
    )
    check_damaged(lax, caplog)


@pytest.mark.parametrize('column', [
    'data', 'version', 'created', 'started', 'accessed', 'rotated',
    'lifetime', 'retired', 'secret_hash', 'expires', 'sweep',
])
@pytest.mark.parametrize(
    'value',
    ['garbage', '', 7, -1, 1.5, 2**62, b'\x00\xff', b'x' * 41, 'x' * 41,
     '9999-99-99 99:99:99.999999', '0000-00-00 00:00:00'],
    ids=repr,
)
def test_sqlite_keeps_anything_in_any_column(quick, column, value):
    """R8: whatever an SQLite column holds, no request fails for it."""
    quick.store(a=1)
    quick.site.execute(f'UPDATE sessions SET {column} = :value', value=value)
    before = raw_rows(quick.site)

    def work(session):
        return state(session)[1], dict(session)

    new, content = quick.visit(work)
    assert content == ({} if new else {'a': 1})
    quick.site.clock.advance(minutes=2)
    quick.visit(work)
    if new:
        assert raw_rows(quick.site) == before
    quick.store(b=2)
    assert quick.content == ({'b': 2} if new else {'a': 1, 'b': 2})
    quick.visit(lambda session: session.rotate())
    quick.visit(lambda session: session.invalidate())
    assert len(raw_rows(quick.site)) == int(new)


@on_sqlite
@pytest.mark.parametrize('column', ['created', 'started', 'accessed'])
def test_a_date_that_is_none(visitor, caplog, column):
    """R8: damage, as text that is no JSON: told, and removable."""
    visitor.store(a=1)
    visitor.site.execute(f"UPDATE sessions SET {column} = 'garbage'")
    check_damaged(visitor, caplog)


# -- old tokens ---------------------------------------------------------------

RETIRED = [
    b'x', b'\x00' * 41, b'\xff' * 41, b'\x7f' * 40 + b'\x01',
    b'\x80' + b'\x00' * 39 + b'\x01', b'\x7f' * 40 + b'\x02', b'x' * 1024,
]


def check_retired(visitor, retired, work):
    """Assert that a damaged list of old tokens does no harm."""
    visitor.store(a=1)
    old = Visitor(visitor.site)
    old.browser = visitor.site.browser(like=visitor.browser)
    visitor.visit(lambda session: session.rotate())
    damage(visitor.site, retired=retired)
    old.visit(work)
    visitor.visit(work)
    assert visitor.content == {'a': 1}


@pytest.mark.parametrize('retired', RETIRED, ids=lambda raw: repr(raw)[:30])
@pytest.mark.parametrize('work', [list, SQLASession.rotate])
def test_a_damaged_list_of_old_tokens(quick, retired, work):
    """R8, C5: it counts as empty, for old tokens and at a rotation."""
    check_retired(quick, retired, work)


def test_a_damaged_list_of_old_tokens_on_each_database(visitor):
    """R8, C5: as above, on each database."""
    check_retired(visitor, RETIRED[3], SQLASession.rotate)


# -- moments that Python does not know ----------------------------------------

DATES = ('created', 'started', 'accessed', 'expires', 'rotated', 'sweep')


def check_date(site, column, write):
    """Return the error of the requests on a record with a strange date."""
    visitor = Visitor(site)
    visitor.store(a=1)
    write(column)
    try:
        for _ in range(2):
            assert visitor.content in ({}, {'a': 1})
            site.clock.advance(minutes=2)
        visitor.store(b=1)
        assert visitor.content in ({'b': 1}, {'a': 1, 'b': 1})
        visitor.visit(lambda session: session.invalidate())
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    finally:
        site.execute('DELETE FROM sessions')
    return 'no error'


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('value', ['infinity', '-infinity', '294276-01-01'])
def test_moments_that_python_does_not_know(site, value):
    """R8: PostgreSQL's dates beyond Python's are damage, never a 500."""
    def write(column):
        site.execute(f"UPDATE sessions SET {column} = '{value}'")

    found = {column: check_date(site, column, write) for column in DATES}
    assert found == dict.fromkeys(DATES, 'no error')


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('column', ['expires', 'created', 'accessed'])
def test_a_moment_beyond_python_hides_no_other(visitor, column):
    """R8: PostgreSQL has an infinity; the others are still listed."""
    visitor.store(n=1)
    visitor.site.execute(f"UPDATE sessions SET {column} = 'infinity'")
    Visitor(visitor.site).store(n=1)
    found = visitor.request(lambda request: request.session_store.find())
    assert sorted(getattr(one, column) is None for one in found) == [
        False, True
    ]


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_zero_dates(site):
    """R8: MariaDB's zero dates are damage, never a 500."""
    def write(column):
        with site.outside.connect() as connection:
            # Of a connection that goes nowhere else.
            connection.detach()
            connection.execute(sa.text("SET sql_mode = ''"))
            connection.execute(
                sa.text(f"UPDATE sessions SET {column} = '0000-00-00'")
            )
            connection.commit()

    found = {column: check_date(site, column, write) for column in DATES}
    assert found == dict.fromkeys(DATES, 'no error')
