"""When sessions end: timeouts, ``set_expiry`` and touches (E1, E2, E4)."""

import datetime as dt
import json
import logging

from freezegun import freeze_time
from pyramid.response import Response
import pytest
import sqlalchemy as sa

from pyramid_sqlasession.application import utcnow

from .failing import on_sqlite
from .given import Given

UTC = dt.UTC


def with_views(site):
    """Add the views that these tests visit; returns *site*."""

    @site.view
    def write(request):
        request.session['n'] = request.session.get('n', 0) + 1

    @site.view
    def read(request):
        return request.session.get('n')

    @site.view
    def ignore(request):
        """Does nothing with the session."""

    @site.view
    def touch(request):
        request.session.touch()

    @site.view
    def rotate(request):
        request.session.rotate()

    @site.view
    def login(request):
        request.session.rotate(login=True)

    @site.view
    def invalidate(request):
        request.session.invalidate()

    return site


@pytest.fixture
def make_shop(make_site):
    """A function that makes a site with the views of these tests."""
    return lambda **settings: with_views(make_site(**settings))


@pytest.fixture
def shop(make_shop):
    """A site with an idle timeout of an hour, touched each minute."""
    return make_shop(expiration='1h', touch_interval='60s')


def expiring(site, value):
    """Return a browser whose session called ``set_expiry(value)``."""

    @site.view
    def expire(request):
        request.session['n'] = 1
        request.session.set_expiry(value)

    browser = site.browser()
    browser.get('/expire')
    return browser


def lives(browser):
    """Return whether the browser's session is still read."""
    return browser.get('/read').text != ''


def left(site):
    """Return how many seconds the only record has left."""
    (row,) = site.rows()
    return (row['expires'] - site.clock()).total_seconds()


def max_age(response):
    """Return the Max-Age of the cookie in *response*, or None."""
    for part in response.headers.get('Set-Cookie', '').split(';'):
        name, _, value = part.strip().partition('=')
        if name == 'Max-Age':
            return int(value)
    return None


# -- the idle timeout ---------------------------------------------------------


@pytest.mark.parametrize(
    ('seconds', 'alive'), [(3599, True), (3600, False), (3601, False)]
)
def test_idle_session_ends_at_its_expiry(shop, seconds, alive):
    """E1: refused from the moment of expiry on, with the row still there."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=seconds)
    assert lives(browser) is alive
    assert len(shop.rows()) == 1


@on_sqlite
def test_expired_session_is_neither_written_nor_revived(shop):
    """E1, R3: a write begins a new session beside the expired row."""
    browser = shop.browser()
    browser.get('/write')
    (old,) = shop.rows()
    shop.clock.advance(hours=1)
    browser.get('/write')
    rows = {row['id']: row for row in shop.rows()}
    assert rows.pop(old['id']) == old
    (new,) = rows.values()
    assert json.loads(new['data'])['n'] == 1


@on_sqlite
@pytest.mark.parametrize('path', ['/touch', '/rotate', '/login'])
def test_expired_session_is_not_revived_by(shop, path):
    """E1, R3: nothing that extends a session works on an expired one."""
    browser = shop.browser()
    browser.get('/write')
    before = shop.rows()
    shop.clock.advance(hours=1)
    response = browser.get(path)
    assert shop.rows() == before
    assert 'Set-Cookie' not in response.headers


def test_session_that_expires_while_a_view_runs_is_not_written(shop):
    """E1, C4: the write of a session that ends meanwhile is dropped."""

    @shop.view
    def slow(request):
        request.session['slow'] = True
        shop.clock.advance(hours=2)

    browser = shop.browser()
    browser.get('/write')
    before = shop.rows()
    with shop.events() as events:
        response = browser.get('/slow')
    assert shop.rows() == before
    assert 'Set-Cookie' not in response.headers
    names = [type(event).__name__ for event in events]
    assert names.count('SessionWriteDropped') == 1


@on_sqlite
def test_session_in_use_slides(shop):
    """E1, E2: a session that is read each half hour does not end."""
    browser = shop.browser()
    browser.get('/write')
    for _ in range(5):
        shop.clock.advance(minutes=30)
        assert lives(browser)
    shop.clock.advance(hours=1)
    assert not lives(browser)


@on_sqlite
def test_expired_session_is_new(shop):
    """R10: right after an expiry the session is new and empty."""

    @shop.view
    def look(request):
        session = request.session
        return f'{session.new} {session.id} {len(session)}'

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(hours=1)
    assert browser.get('/look').text == 'True None 0'


# -- the absolute timeout -----------------------------------------------------


@on_sqlite
@pytest.mark.parametrize('path', ['/read', '/write', '/touch', '/rotate'])
def test_absolute_timeout_ends_a_session_in_use(make_shop, path):
    """E1: no use extends a session beyond its absolute timeout."""
    shop = make_shop(expiration='1h', absolute_timeout='2h')
    browser = shop.browser()
    browser.get('/write')
    for _ in range(5):
        shop.clock.advance(minutes=20)
        browser.get(path)
        assert lives(browser)
    shop.clock.advance(minutes=20)
    assert not lives(browser)


@on_sqlite
def test_a_login_stays_one_when_the_token_changes_once_more(make_shop):
    """E1: a rotation behind the login takes nothing back."""
    shop = make_shop(expiration='2h', absolute_timeout='2h')

    @shop.view
    def both(request):
        request.session.rotate(login=True)
        request.session.rotate()

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=90)
    browser.get('/both')
    assert left(shop) == 7200


@on_sqlite
@pytest.mark.parametrize('path', ['/read', '/write', '/touch', '/login'])
def test_absolute_timeout_that_is_set_later(make_shop, path):
    """E1: it ends sessions that were stored without it, too."""
    before = make_shop(expiration='60d')
    browser = before.browser()
    browser.get('/write')
    (row,) = before.rows()
    shop = make_shop(expiration='1d', absolute_timeout='2d', create=False)
    browser = shop.browser(like=browser)
    shop.clock.advance(hours=47)
    assert browser.get('/read').text == '1'
    shop.clock.advance(hours=1)
    browser.get(path)
    assert browser.get('/read').text == ('1' if path == '/write' else '')
    assert row['id'] in [row['id'] for row in shop.rows()]
    assert len(shop.rows()) == (2 if path == '/write' else 1)


@on_sqlite
def test_login_begins_the_absolute_timeout_anew(make_shop):
    """E1: at login the absolute timeout counts from zero."""
    shop = make_shop(expiration='2h', absolute_timeout='2h')
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=90)
    browser.get('/login')
    assert left(shop) == 7200
    shop.clock.advance(minutes=119)
    assert lives(browser)
    shop.clock.advance(minutes=1)
    assert not lives(browser)


@on_sqlite
def test_rotation_does_not_extend_the_absolute_timeout(make_shop):
    """E1: rotating each half hour does not get around the limit."""
    shop = make_shop(expiration='2h', absolute_timeout='2h')
    browser = shop.browser()
    browser.get('/write')
    for _ in range(3):
        shop.clock.advance(minutes=30)
        browser.get('/rotate')
    assert left(shop) == 1800


@on_sqlite
def test_created_stays_at_login(make_shop):
    """E1, R10: a login moves the hard end, not the time of creation."""
    shop = make_shop(expiration='1h', absolute_timeout='2h')
    browser = shop.browser()
    browser.get('/write')
    (before,) = shop.rows()
    shop.clock.advance(minutes=30)
    browser.get('/login')
    (after,) = shop.rows()
    assert after['created'] == before['created']


# -- set_expiry ---------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    'value', [dt.timedelta(minutes=5), 300, 300.0, 299.2],
    ids=['timedelta', 'int', 'float', 'fraction'],
)
def test_set_expiry_slides_by_seconds(shop, value):
    """E1: a timedelta or seconds replace the idle timeout and slide."""
    browser = expiring(shop, value)
    assert left(shop) == 300
    shop.clock.advance(minutes=4)
    assert lives(browser)
    assert left(shop) == 300
    shop.clock.advance(minutes=5)
    assert not lives(browser)


@pytest.mark.parametrize(
    'zone', [UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))],
    ids=['UTC', '+05:30'],
)
def test_set_expiry_to_a_datetime_is_a_fixed_end(shop, zone):
    """E1, E4: an aware datetime of any zone is the end, use or not."""
    end = shop.clock() + dt.timedelta(minutes=5)
    browser = expiring(shop, end.astimezone(zone))
    for path in ('/read', '/write', '/touch', '/rotate'):
        shop.clock.advance(minutes=1)
        browser.get(path)
        assert shop.rows()[0]['expires'] == end
    shop.clock.advance(minutes=1)
    assert not lives(browser)


@on_sqlite
@pytest.mark.parametrize(
    'value', [dt.timedelta(days=30), 30 * 86400], ids=['timedelta', 'int']
)
def test_set_expiry_can_be_longer_than_the_setting(shop, value):
    """E1: remember-me: a session may live longer than ``expiration``."""
    browser = expiring(shop, value)
    shop.clock.advance(days=29)
    assert lives(browser)
    assert left(shop) == 30 * 86400


@on_sqlite
@pytest.mark.parametrize('expiration', ['24h', '90d', '36500d'])
def test_set_expiry_never_ends_where_sessions_are_long(make_shop, expiration):
    """E1: the cleaner's moment, rounded up, may be beyond the calendar."""
    shop = make_shop(expiration=expiration)

    @shop.view
    def stay(request):
        request.session['n'] = 1
        request.session.set_expiry(dt.datetime.max.replace(tzinfo=UTC))

    browser = shop.browser()
    browser.get('/stay')
    assert browser.get('/read').text == '1'


@pytest.mark.parametrize('zone', ['Europe/Berlin', 'America/Lima'])
def test_set_expiry_never_ends(make_shop, zone):
    """E4, R8: ``datetime.max`` works in every time zone of connections."""
    shop = make_shop(additional_fields='n: Integer')
    shop.set_time_zone(zone, '+02:00' if zone[0] == 'E' else '-05:00')
    # Whoever listens has the long way taken.
    shop.listen()

    @shop.view
    def stay(request):
        request.session['n'] = 1
        request.session.set_expiry(dt.datetime.max.replace(tzinfo=UTC))

    @shop.view
    def find(request):
        return [one.data for one in request.session_store.find(n=1)]

    browser = shop.browser()
    browser.get('/stay')
    shop.clock.advance(days=3650)
    assert browser.get('/read').text == '1'
    assert browser.get('/find').text == "[{'n': 1}]"


@on_sqlite
@pytest.mark.parametrize('first', ['seconds', 'datetime'])
def test_set_expiry_none_returns_to_the_setting(shop, first):
    """E1: ``set_expiry(None)`` is the setting again, sliding."""
    value = 300 if first == 'seconds' else (
        shop.clock() + dt.timedelta(minutes=5)
    )
    browser = expiring(shop, value)

    @shop.view
    def back(request):
        request.session.set_expiry(None)

    browser.get('/back')
    assert left(shop) == 3600
    shop.clock.advance(minutes=59)
    assert lives(browser)
    assert left(shop) == 3600


@on_sqlite
@pytest.mark.parametrize(
    'make', [
        lambda now: 86400,
        lambda now: dt.timedelta(days=1),
        lambda now: now + dt.timedelta(days=1),
    ],
    ids=['seconds', 'timedelta', 'datetime'],
)
def test_set_expiry_never_goes_beyond_the_absolute_timeout(make_shop, make):
    """E1: the absolute timeout holds whatever a session asks for."""
    shop = make_shop(expiration='1h', absolute_timeout='2h')
    browser = expiring(shop, make(shop.clock()))
    assert left(shop) == 7200
    shop.clock.advance(minutes=90)
    assert lives(browser)
    shop.clock.advance(minutes=30)
    assert not lives(browser)


@on_sqlite
def test_set_expiry_is_of_this_session_only(shop):
    """E1: another session keeps the lifetime of the settings."""
    other = shop.browser()
    other.get('/write')
    browser = expiring(shop, 300)
    shop.clock.advance(minutes=5)
    assert not lives(browser)
    assert lives(other)


@on_sqlite
@pytest.mark.parametrize('path', ['/rotate', '/login'])
def test_set_expiry_is_kept_by_a_new_token(shop, path):
    """E1: a session of five minutes is one after its rotation too."""
    browser = expiring(shop, 300)
    browser.get(path)
    shop.clock.advance(minutes=4)
    assert lives(browser)
    shop.clock.advance(minutes=5)
    assert not lives(browser)


@on_sqlite
def test_set_expiry_ends_with_invalidate(shop):
    """E1: the session after ``invalidate()`` has the setting's lifetime."""
    browser = expiring(shop, 300)

    @shop.view
    def anew(request):
        request.session.invalidate()
        request.session['n'] = 2

    browser.get('/anew')
    assert left(shop) == 3600


@on_sqlite
def test_set_expiry_is_taken_back_by_an_abort(shop):
    """T2, E1: the lifetime belongs to the transaction."""
    browser = shop.browser()
    browser.get('/write')

    @shop.view
    def fail(request):
        request.session.set_expiry(300)
        request.tm.doom()

    browser.get('/fail')
    assert left(shop) == 3600


@on_sqlite
@pytest.mark.parametrize(('login', 'hours'), [(False, 2), (True, 5)])
def test_expires_before_a_login_is_stored(make_shop, login, hours):
    """E1: it tells what will be stored: a login begins the limit anew."""
    shop = make_shop(expiration='9h', absolute_timeout='10h')
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(hours=8)

    @shop.view
    def log_in(request):
        request.session.rotate(login=login)
        request.session.set_expiry(dt.timedelta(hours=5))
        return request.session.expires.isoformat()

    end = shop.clock() + dt.timedelta(hours=hours)
    assert browser.get('/log_in').text == end.isoformat()
    assert shop.rows()[0]['expires'] == end


@on_sqlite
def test_set_expiry_alone_stores_nothing(shop):
    """R1: an empty session with a lifetime is still an empty session."""

    @shop.view
    def only(request):
        request.session.set_expiry(300)

    response = shop.browser().get('/only')
    assert shop.rows() == []
    assert 'Set-Cookie' not in response.headers


@pytest.mark.parametrize(
    ('value', 'error'),
    [
        (0, ValueError), (-1, ValueError), (dt.timedelta(0), ValueError),
        (dt.timedelta(seconds=-5), ValueError),
        (2**31, ValueError), (2**40, ValueError),
        (dt.timedelta.max, ValueError),
        # The moment at which the clock of these tests stands.
        (dt.datetime(2026, 11, 23, 12, tzinfo=UTC), ValueError),
        (dt.datetime(2020, 1, 1, tzinfo=UTC), ValueError),
        (dt.datetime(2030, 1, 1), ValueError),
        ('300', TypeError), ('5m', TypeError), (True, TypeError),
        (dt.date(2030, 1, 1), TypeError), ([], TypeError),
        (float('nan'), (TypeError, ValueError)),
        (float('inf'), (TypeError, ValueError)),
    ],
    ids=repr,
)
@on_sqlite
def test_set_expiry_refuses(shop, value, error):
    """E1: what makes no sense is refused at the call, nothing changes."""

    @shop.view
    def expire(request):
        request.session['n'] = 1
        with pytest.raises(error, match='set_expiry'):
            request.session.set_expiry(value)

    shop.browser().get('/expire')
    assert left(shop) == 3600


@pytest.mark.parametrize(
    'end', [
        dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        dt.datetime(9999, 12, 31, tzinfo=dt.timezone(dt.timedelta(hours=-14))),
    ],
    ids=['max', 'west'],
)
def test_set_expiry_to_never(shop, end):
    """E1: the usual way to write "never" works."""
    browser = expiring(shop, end)
    shop.clock.advance(days=365 * 50)
    assert lives(browser)
    # The last day that is one in every time zone.
    latest = dt.datetime(9999, 12, 30, tzinfo=UTC)
    assert shop.rows()[0]['expires'] == latest


def test_the_longest_that_set_expiry_takes(shop):
    """E1: so many seconds the database's column holds."""
    browser = expiring(shop, 2**31 - 1)
    shop.clock.advance(seconds=2**31 - 2)
    assert lives(browser)
    shop.clock.advance(seconds=2**31 - 1)
    assert not lives(browser)


@pytest.mark.parametrize('end', ['min', 'max'])
@on_sqlite
def test_set_expiry_beyond_the_calendar_is_refused_at_the_call(shop, end):
    """E1: a datetime that no UTC datetime can hold is a ValueError."""
    zone = dt.timezone(dt.timedelta(hours=14 if end == 'min' else -14))
    value = getattr(dt.datetime, end).replace(tzinfo=zone)

    @shop.view
    def expire(request):
        with pytest.raises(ValueError, match='set_expiry'):
            request.session.set_expiry(value)

    shop.browser().get('/expire')


# -- touches ------------------------------------------------------------------


def test_many_reads_in_an_interval_are_one_update(shop):
    """E2: 100 reads within a touch interval cost at most one UPDATE."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=60)
    shop.listen()
    for _ in range(100):
        browser.get('/read')
        shop.clock.advance(milliseconds=590)
    assert shop.statements.verbs.count('UPDATE') == 1


def test_reads_at_the_same_moment_are_one_touch(shop, stage):
    """E2: each sends its own, and one counts."""

    @shop.view
    def slow(request):
        assert request.session['n'] == 1
        stage.reach('slow')

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=60)
    slow_one = stage.run(shop.browser(like=browser).get, '/slow')
    stage.wait('slow')
    shop.listen()
    assert 'Set-Cookie' in browser.get('/read').headers
    before = shop.rows()
    shop.clock.advance(seconds=1)
    stage.let('slow')
    assert 'Set-Cookie' not in slow_one.result().headers
    assert shop.statements.verbs == ['SELECT', 'UPDATE', 'UPDATE']
    assert shop.rows() == before


@on_sqlite
@pytest.mark.parametrize(
    ('seconds', 'verbs'),
    [(59.9, ['SELECT']), (60, ['SELECT', 'UPDATE'])],
)
def test_touch_is_due_after_the_interval(shop, seconds, verbs):
    """E2: not before the interval is over, and then at once."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=seconds)
    shop.listen()
    browser.get('/read')
    assert shop.statements.verbs == verbs


@on_sqlite
def test_touch_interval_zero_touches_each_read(make_shop):
    """E2: ``touch_interval = 0`` extends on every request."""
    shop = make_shop(expiration='1h', touch_interval='0')
    browser = shop.browser()
    browser.get('/write')
    for _ in range(3):
        shop.clock.advance(milliseconds=1)
        shop.listen()
        browser.get('/read')
        assert shop.statements.verbs == ['SELECT', 'UPDATE']
        assert left(shop) == 3600


@on_sqlite
def test_default_interval_is_at_most_a_tenth_of_expiration(make_shop):
    """E2: a session of 100 s is touched each 10 s, not each 60 s."""
    shop = make_shop(expiration='100s')
    browser = shop.browser()
    browser.get('/write')
    for _ in range(20):
        shop.clock.advance(seconds=99)
        assert lives(browser)
    shop.clock.advance(seconds=9)
    browser.get('/read')
    assert left(shop) == 91
    shop.clock.advance(seconds=1)
    browser.get('/read')
    assert left(shop) == 100


@on_sqlite
@pytest.mark.parametrize('seconds', [1, 5, 30])
def test_short_session_of_its_own_is_kept_alive_by_reads(shop, seconds):
    """E2: a lifetime below the touch interval slides all the same."""
    browser = expiring(shop, seconds)
    for _ in range(10):
        shop.clock.advance(seconds=seconds / 2)
        assert lives(browser)


@on_sqlite
def test_short_session_of_its_own_is_touched_each_tenth_of_it(shop):
    """E2: not at each read, and not as rarely as the others."""
    browser = expiring(shop, 100)
    shop.clock.advance(seconds=9.9)
    browser.get('/read')
    assert left(shop) == 90.1
    shop.clock.advance(seconds=0.1)
    browser.get('/read')
    assert left(shop) == 100


@on_sqlite
def test_disabled_touch_lets_a_session_that_is_only_read_end(make_shop):
    """E2: with ``disable_touch`` reading never extends the expiry."""
    shop = make_shop(expiration='1h', disable_touch='true')
    browser = shop.browser()
    browser.get('/write')
    shop.listen()
    for _ in range(5):
        shop.clock.advance(minutes=10)
        assert lives(browser)
    assert 'UPDATE' not in shop.statements.verbs
    shop.clock.advance(minutes=10)
    assert not lives(browser)


@on_sqlite
@pytest.mark.parametrize('path', ['/write', '/touch'])
def test_disabled_touch_is_about_reads_only(make_shop, path):
    """E2: a write and ``touch()`` extend the expiry as ever."""
    shop = make_shop(expiration='1h', disable_touch='true')
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    browser.get(path)
    assert left(shop) == 3600


@on_sqlite
def test_each_save_extends_where_reading_does_not(make_shop):
    """E2: with ``disable_touch`` nothing else would, however soon it is."""
    shop = make_shop(expiration='1h', disable_touch='true')
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=1)
    browser.get('/write')
    (row,) = shop.rows()
    assert row['expires'] == shop.clock() + dt.timedelta(hours=1)


@on_sqlite
def test_touch_method_extends_within_the_interval(shop):
    """E2: ``touch()`` extends whatever the interval says."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=10)
    browser.get('/touch')
    assert left(shop) == 3600


@on_sqlite
def test_write_extends_when_a_touch_is_due_in_one_statement(shop):
    """D4, E2: a write extends the expiry itself, there is no touch more."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    shop.listen()
    browser.get('/write')
    assert shop.statements.verbs == ['SELECT', 'UPDATE']
    assert left(shop) == 3600


@on_sqlite
@pytest.mark.parametrize('path', ['/write', '/rotate'])
def test_change_within_the_interval_leaves_the_end(shop, path):
    """E2: as a read does; what asks for another end does not."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(seconds=59)
    browser.get(path)
    assert shop.rows()[0]['version'] == 2
    assert left(shop) == 3600 - 59
    browser.get('/login')
    assert left(shop) == 3600


@on_sqlite
def test_request_that_ignores_its_session_touches_nothing(shop):
    """E2, R2: only a session that somebody looked at is extended."""
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    shop.listen()
    browser.get('/ignore')
    assert shop.statements == []


def test_touch_changes_nothing_but_times(shop):
    """C3: data, version, token and creation are those of before."""
    browser = shop.browser()
    browser.get('/write')
    (before,) = shop.rows()
    shop.clock.advance(minutes=10)
    browser.get('/read')
    (after,) = shop.rows()
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {'accessed', 'expires', 'sweep'}
    assert {'accessed', 'expires'} <= changed


@on_sqlite
def test_sweep_is_the_expiry_rounded_up(make_shop):
    """E3: to a sixteenth of the expiry, whichever session came before."""
    shop = make_shop(expiration='1h')
    width = dt.timedelta(seconds=3600 / 16)
    begin = dt.datetime(2030, 1, 1, tzinfo=UTC)
    # Forth and back over the limits of two steps, and exactly on them.
    steps = [0.5, 0.9, 1, 1.1, 2, 2.5, 1.5, 1, 0.1, 2, 0, 3]
    for step in steps:
        shop.clock.time = begin + step * width
        shop.browser().get('/write')
    rows = shop.rows()
    assert len(rows) == len(steps)
    for row in rows:
        assert dt.timedelta(0) <= row['sweep'] - row['expires'] < width
        assert (row['sweep'] - begin) % width == dt.timedelta(0)


@pytest.mark.parametrize('end', ['doom', 'error', 'veto'])
def test_touch_survives_the_abort(make_site, end):
    """E2: what the transaction comes to does not matter for the touch."""

    def configure(config):
        config.add_exception_view(
            lambda error, request: Response('sorry'), context=KeyError
        )

    veto = {'tm.commit_veto': 'pyramid_tm.default_commit_veto'}
    shop = with_views(
        make_site(
            expiration='1h', configure=configure,
            **(veto if end == 'veto' else {}),
        )
    )

    @shop.view
    def abort(request):
        assert request.session['n'] == 1
        request.session['lost'] = True
        if end == 'doom':
            request.tm.doom()
        elif end == 'veto':
            request.response.status = 404
            return request.response
        else:
            raise KeyError('fails')
        return None

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    browser.get('/abort', status='*')
    assert left(shop) == 3600
    assert shop.data() == {'n': 1}


def test_touch_needs_no_second_connection(make_shop):
    """E2: sent when the transaction has released its connection."""
    shop = make_shop(
        expiration='1h',
        engine_options={
            'poolclass': sa.QueuePool, 'pool_size': 1, 'max_overflow': 0,
            'pool_timeout': 0.1,
        },
    )

    @shop.view
    def busy(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        return request.session['n']

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    browser.get('/busy')
    assert left(shop) == 3600


def test_touch_is_not_in_the_transaction_of_the_application(shop):
    """E2: the transaction is committed and closed before the touch."""
    order = []

    @shop.view
    def busy(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        request.tm.get().addAfterCommitHook(
            lambda status: order.append('COMMIT')
        )
        return request.session['n']

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)

    @sa.event.listens_for(shop.engine, 'before_cursor_execute')
    def note(connection, cursor, statement, *args):
        if 'UPDATE sessions' in statement:
            order.append('UPDATE')

    browser.get('/busy')
    assert order == ['COMMIT', 'UPDATE']


def test_touch_that_finds_no_row_is_silent(shop, caplog):
    """E2, C4: a session that was revoked meanwhile stays gone, silently."""

    @shop.view
    def revoked(request):
        assert request.session['n'] == 1
        shop.execute('DELETE FROM sessions')
        return 'fine'

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    with caplog.at_level(logging.DEBUG, 'pyramid_sqlasession'):
        with shop.events() as events:
            response = browser.get('/revoked')
    assert response.text == 'fine'
    assert 'Set-Cookie' not in response.headers
    assert shop.rows() == []
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []
    names = [type(event).__name__ for event in events]
    assert not [n for n in names if n.startswith('Session')]


def test_touch_that_fails_does_not_cost_the_page(shop, caplog):
    """E2: the page is done; a touch that fails is a warning in the log."""

    @shop.view
    def broken(request):
        assert request.session['n'] == 1
        shop.execute('ALTER TABLE sessions RENAME TO away')
        return 'fine'

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    assert browser.get('/broken').text == 'fine'
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1


def stop_first_update(site, stage, place):
    """Have the first UPDATE of the site stop at *place*."""
    stopped = []

    @sa.event.listens_for(site.engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'UPDATE sessions' in statement and not stopped:
            stopped.append(statement)
            stage.reach(place)


# On SQLite the first of two could hold the only lock for writing.
NOT_SQLITE = pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)


@NOT_SQLITE
@pytest.mark.parametrize('second', ['/read', '/write', '/touch', '/far'])
def test_late_touch_never_sets_the_expiry_back(shop, stage, second):
    """C3: a touch that arrives after a later one changes nothing."""

    @shop.view
    def far(request):
        request.session.set_expiry(dt.timedelta(days=30))

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    stop_first_update(shop, stage, 'touch')
    late = stage.run(shop.browser(like=browser).get, '/read')
    stage.wait('touch')
    shop.clock.advance(minutes=10)
    browser.get(second)
    before = shop.rows()
    stage.let('touch')
    late.result()
    assert shop.rows() == before


def test_touch_does_not_prolong_what_was_shortened_meanwhile(shop, stage):
    """C3: a reader that began before ``set_expiry(60)`` does not undo it."""

    @shop.view
    def slow(request):
        assert request.session['n'] == 1
        stage.reach('slow')

    @shop.view
    def short(request):
        request.session.set_expiry(60)

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    slow_one = stage.run(shop.browser(like=browser).get, '/slow')
    stage.wait('slow')
    browser.get('/short')
    stage.let('slow')
    slow_one.result()
    assert left(shop) == 60


def test_write_beside_set_expiry_keeps_the_lifetime(shop, stage):
    """C1: A writes and extends, B sets the lifetime: B's lifetime stays."""

    @shop.view
    def slow(request):
        request.session['slow'] = True
        stage.reach('slow')

    @shop.view
    def short(request):
        request.session.set_expiry(60)

    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=10)
    slow_one = stage.run(shop.browser(like=browser).get, '/slow')
    stage.wait('slow')
    browser.get('/short')
    shop.clock.advance(seconds=30)
    stage.let('slow')
    slow_one.result()
    assert shop.data() == {'n': 1, 'slow': True}
    assert left(shop) == 60


@on_sqlite
def test_shorter_setting_does_not_cut_sessions_that_exist(make_shop):
    """C3: after a restart with a shorter ``expiration`` no read cuts."""
    before = make_shop(expiration='7d')
    browser = before.browser()
    browser.get('/write')
    (row,) = before.rows()
    after = make_shop(expiration='1h')
    after.clock.advance(minutes=10)
    assert lives(after.browser(like=browser))
    assert after.rows()[0]['expires'] == row['expires']


@on_sqlite
def test_clock_that_goes_back_sets_nothing_back(shop):
    """C3: a worker whose clock is slow neither touches nor shortens."""
    browser = shop.browser()
    browser.get('/write')
    (row,) = shop.rows()
    shop.clock.advance(minutes=-10)
    for path in ('/read', '/write', '/touch'):
        browser.get(path)
        assert shop.rows()[0]['expires'] == row['expires']


# -- the cookie (R11) ---------------------------------------------------------


@on_sqlite
def test_cookie_slides_with_the_session(shop):
    """R11, R4: a touch sends the cookie anew, other reads do not."""
    browser = shop.browser()
    assert max_age(browser.get('/write')) == 3600
    assert max_age(browser.get('/read')) is None
    shop.clock.advance(minutes=10)
    assert max_age(browser.get('/read')) == 3600
    assert max_age(browser.get('/read')) is None


@on_sqlite
def test_cookie_of_its_own_age_slides(make_shop):
    """R11: ``cookie_max_age`` counts from the last extension."""
    shop = make_shop(expiration='7d', cookie_max_age='1h')
    browser = shop.browser()
    assert max_age(browser.get('/write')) == 3600
    shop.clock.advance(minutes=59)
    assert max_age(browser.get('/read')) == 3600


@on_sqlite
def test_cookie_of_its_own_age_is_not_sent_with_each_write(make_shop):
    """R4, R11: only with those that note the last access."""
    shop = make_shop(expiration='7d', cookie_max_age='1h')
    browser = shop.browser()
    browser.get('/write')
    assert 'Set-Cookie' not in browser.get('/write').headers


@on_sqlite
def test_cookie_that_ends_with_the_browser_is_not_sent_again(make_shop):
    """R4: a cookie without an age has nothing to extend."""
    shop = make_shop(expiration='1h', cookie_max_age='session')
    browser = shop.browser()
    first = browser.get('/write')
    assert 'Set-Cookie' in first.headers
    assert max_age(first) is None
    shop.clock.advance(minutes=10)
    assert 'Set-Cookie' not in browser.get('/read').headers


@on_sqlite
@pytest.mark.parametrize('path', ['/read', '/write'])
def test_cookie_of_a_session_with_a_fixed_end_slides(make_shop, path):
    """R11: an active user's cookie lasts until the fixed end."""
    shop = make_shop(expiration='7d', cookie_max_age='1h')
    browser = expiring(shop, shop.clock() + dt.timedelta(days=1))
    shop.clock.advance(minutes=55)
    assert max_age(browser.get(path)) == 3600


@on_sqlite
@pytest.mark.parametrize('path', ['/read', '/write'])
def test_cookie_slides_when_the_absolute_limit_is_near(make_shop, path):
    """R11: the absolute timeout is no reason for the cookie to run out."""
    shop = make_shop(
        expiration='1d', absolute_timeout='1d', cookie_max_age='1h'
    )
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=55)
    assert max_age(browser.get(path)) == 3600


@on_sqlite
@pytest.mark.parametrize('path', ['/read', '/write'])
def test_cookie_that_can_live_no_longer_is_not_sent_again(make_shop, path):
    """R4: a touch that cannot move the end has nothing to say."""
    shop = make_shop(expiration='1d', absolute_timeout='1d')
    browser = shop.browser()
    browser.get('/write')
    shop.clock.advance(minutes=55)
    (before,) = shop.rows()
    assert 'Set-Cookie' not in browser.get(path).headers
    (after,) = shop.rows()
    assert after['accessed'] > before['accessed']
    assert after['expires'] == before['expires']


@on_sqlite
def test_cookie_follows_set_expiry(shop):
    """R11: the browser keeps a session of 30 days for 30 days."""
    browser = expiring(shop, dt.timedelta(days=30))

    @shop.view
    def again(request):
        request.session.set_expiry(dt.timedelta(days=60))

    assert max_age(browser.get('/again')) == 60 * 86400
    shop.clock.advance(days=1)
    assert max_age(browser.get('/read')) == 60 * 86400


@on_sqlite
def test_aborted_touch_method_sends_no_cookie(shop):
    """R4, T2: ``touch()`` belongs to the transaction."""

    @shop.view
    def fail(request):
        request.session.touch()
        request.tm.doom()

    browser = shop.browser()
    browser.get('/write')
    (before,) = shop.rows()
    shop.clock.advance(seconds=10)
    assert 'Set-Cookie' not in browser.get('/fail').headers
    assert shop.rows() == [before]


# -- the fixtures of the cookiecutter (T7) ------------------------------------


@pytest.fixture
def given(shop):
    """What the cookiecutter's ``testapp`` fixture has, and its end."""
    given = Given(shop)
    given.manager.doom()
    yield given
    given.abort()


def test_touch_goes_through_the_given_dbsession(shop, given):
    """T7, E2: it is seen by the next request and vanishes with the rest."""
    browser = given.browser()
    browser.get('/write')
    connections = []
    sa.event.listen(
        shop.engine, 'checkout', lambda *args: connections.append(args)
    )
    for _ in range(4):
        shop.clock.advance(minutes=30)
        assert lives(browser)
    assert connections == []
    assert shop.rows() == []
    given.manager.abort()
    assert shop.rows() == []


@on_sqlite
def test_touch_through_the_given_dbsession_is_one_update(shop, given):
    """T7, D4: the same two statements as everywhere."""
    browser = given.browser()
    browser.get('/write')
    shop.clock.advance(minutes=30)
    shop.listen()
    browser.get('/read')
    assert shop.statements.verbs == ['SELECT', 'UPDATE']


# -- one clock (E4) -----------------------------------------------------------


@pytest.mark.parametrize('zone', ['Asia/Kolkata', 'America/St_Johns', 'XYZ+9'])
def test_time_zone_of_the_process_does_not_matter(
    make_shop, process_zone, zone
):
    """E4: written in one zone, read in another: the same instants."""
    shop = make_shop(expiration='1h')
    browser = shop.browser()
    browser.get('/write')
    (before,) = shop.rows()
    process_zone(zone)

    @shop.view
    def times(request):
        session = request.session
        return json.dumps([
            session.created, session.accessed.isoformat(),
            session.expires.isoformat(),
        ])

    now = shop.clock()
    assert json.loads(browser.get('/times').text) == [
        int(now.timestamp()), now.isoformat(),
        (now + dt.timedelta(hours=1)).isoformat(),
    ]
    shop.clock.advance(minutes=59)
    browser.get('/read')
    assert shop.rows()[0]['expires'] - before['expires'] == dt.timedelta(
        minutes=59
    )
    shop.clock.advance(hours=1)
    assert not lives(browser)


ZONES = {
    'postgresql': ['Asia/Kathmandu', 'America/St_Johns', '<-02>+2:30'],
    'mariadb': ['+05:45', '-12:00', '+13:00'],
}


@pytest.mark.parametrize(
    ('database', 'zone'),
    [(name, zone) for name, zones in ZONES.items() for zone in zones],
    indirect=['database'],
)
def test_time_zone_of_the_connection_does_not_matter(make_shop, zone):
    """E4: what is written in an odd zone is the same instant elsewhere."""
    shop = make_shop(expiration='1h')
    shop.set_time_zone(zone, zone)
    browser = shop.browser()
    browser.get('/write')
    (row,) = shop.rows()
    assert row['created'] == shop.clock()
    assert row['expires'] == shop.clock() + dt.timedelta(hours=1)

    @shop.view
    def times(request):
        session = request.session
        assert session.accessed == row['accessed']
        assert session.expires == row['expires']
        assert session.expires.utcoffset() == dt.timedelta(0)
        assert session.created == int(row['created'].timestamp())

    browser.get('/times')
    shop.clock.advance(minutes=59)
    assert lives(browser)
    shop.clock.advance(minutes=59)
    assert lives(browser)
    shop.clock.advance(minutes=60)
    assert not lives(browser)


def test_microseconds_are_kept(shop):
    """E4: times come back exactly, or guards on them would fail."""
    shop.clock.advance(microseconds=123457)
    shop.browser().get('/write')
    (row,) = shop.rows()
    assert row['accessed'] == row['created'] == shop.clock()


@on_sqlite
def test_real_clock_is_utc(make_shop, process_zone):
    """E4: without a frozen clock too, whatever the zone of the process."""
    process_zone('Asia/Tokyo')
    shop = make_shop(frozen=False)
    before = dt.datetime.now(UTC)
    shop.browser().get('/write')
    (row,) = shop.rows()
    assert before <= row['created'] <= dt.datetime.now(UTC)


def test_time_that_freezegun_stops(make_shop):
    """E4, R3: sessions go by the time that a test of the application has."""
    shop = make_shop(expiration='1h')
    shop.application.now = utcnow

    @shop.view
    def until(request):
        tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        request.session.set_expiry(tomorrow)

    browser = shop.browser()
    with freeze_time('2026-12-01 12:00') as clock:
        browser.get('/write')
        for _ in range(3):
            clock.tick(dt.timedelta(minutes=40))
            assert browser.get('/read').text == '1'
        clock.tick(dt.timedelta(minutes=61))
        assert browser.get('/read').text == ''
        browser.get('/write')
        browser.get('/until')
        clock.tick(dt.timedelta(hours=23))
        assert browser.get('/read').text == '1'
