"""SessionAuthenticationHelper in a security policy, as Pyramid's own is."""

import datetime as dt
import inspect
import sqlite3

import pyramid.authentication
from pyramid.response import Response
from pyramid.security import forget
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from pyramid_sqlasession import SessionArgumentError
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import testing
from pyramid_sqlasession.authentication import SessionAuthenticationHelper

from . import meeting as acts
from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .meeting import Meeting

ADA, GRACE = 7, 8


class Policy:
    """The security policy of Pyramid's documentation, with our helper."""

    def __init__(self):
        self.helper = SessionAuthenticationHelper()

    def identity(self, request):
        return self.authenticated_userid(request)

    def authenticated_userid(self, request):
        return self.helper.authenticated_userid(request)

    def permits(self, request, context, permission):
        return self.identity(request) is not None

    def remember(self, request, userid, **kw):
        return self.helper.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.helper.forget(request, **kw)


def login(userid=ADA):
    """Return an act that logs in."""

    def act(request):
        return Response(headerlist=[
            ('Content-Type', 'text/plain; charset=utf-8'),
            *remember(request, userid),
        ])

    return act


def logout(request):
    """Log out."""
    assert forget(request) == []


def who(request):
    """Show who is logged in."""
    return request.authenticated_userid


@pytest.fixture
def make_club(make_site, stage):
    """A function that makes a ``Meeting`` on a site with the policy."""

    def make(configure=None, **settings):
        def secure(config):
            config.set_security_policy(Policy())
            if configure is not None:
                configure(config)

        settings.setdefault('additional_fields', 'user_id: Integer index')
        return Meeting(make_site(configure=secure, **settings), stage)

    return make


@pytest.fixture
def club(make_club):
    """A ``Meeting`` on a site with the policy."""
    return make_club()


def asked(club, browser):
    """Return who is logged in with *browser*."""
    return club.do(browser, who).text


def shopper(club, **data):
    """Return a browser that nobody is logged in with, with a session."""
    browser = club.site.browser()
    club.do(browser, acts.put(**data))
    return browser


# -- remember ----------------------------------------------------------------


def test_the_interface_of_pyramids_own():
    """Each public method of Pyramid's helper is there, with its arguments."""
    theirs = pyramid.authentication.SessionAuthenticationHelper
    for name, method in inspect.getmembers(theirs, inspect.isfunction):
        if name.startswith('_'):
            continue
        ours = getattr(SessionAuthenticationHelper, name)
        expected = list(inspect.signature(method).parameters)
        assert list(inspect.signature(ours).parameters) == expected


def test_a_visitor_is_nobody(club):
    """R1: asking who is there stores nothing."""
    browser = club.site.browser()
    assert asked(club, browser) == ''
    assert club.site.rows() == []


def test_login(club):
    """Whoever logged in is known to the next request, and to the store."""
    browser = club.site.browser()
    club.do(browser, login())
    assert asked(club, browser) == str(ADA)
    (row,) = club.site.rows()
    assert row['user_id'] == ADA
    found = club.do(
        browser, lambda r: len(r.session_store.find(user_id=ADA))
    )
    assert found.text == '1'


def test_login_rotates_the_token(club):
    """A login gives the session a new token; id and data stay."""
    browser = shopper(club, cart=['tea'])
    before, token = club.site.rows()[0], club.site.token(browser)
    club.do(browser, login())
    (after,) = club.site.rows()
    assert after['id'] == before['id']
    assert after['secret_hash'] != before['secret_hash']
    assert club.site.token(browser) != token
    assert club.site.data()['cart'] == ['tea']


@pytest.mark.parametrize('with_data', [True, False])
def test_no_fixation(club, with_data):
    """Who planted a cookie before the login is not logged in by it."""
    attacker = club.site.browser()
    club.do(attacker, acts.put(a=1) if with_data else acts.csrf)
    victim = club.site.browser(like=attacker)
    club.do(victim, login())
    assert asked(club, victim) == str(ADA)
    assert asked(club, attacker) == ''
    club.site.clock.advance(minutes=5)
    assert asked(club, attacker) == ''


def test_login_takes_a_new_csrf_token(club):
    """The CSRF token that was known before the login is not valid after it."""
    browser = club.site.browser()
    before = club.do(browser, acts.csrf).text
    club.do(browser, login())
    assert club.do(browser, acts.csrf).text != before


def test_another_user_does_not_inherit(club):
    """A login of somebody else has a new session; the old one has ended."""
    browser = club.site.browser()
    club.do(browser, login(ADA))
    club.do(browser, acts.put(letter='of Ada', _csrft_='known to Ada'))
    club.do(browser, acts.flash('Hello Ada'))
    (first,) = club.site.rows()
    stolen = club.site.browser(like=browser)
    club.do(browser, login(GRACE))
    (second,) = club.site.rows()
    assert second['id'] != first['id']
    assert asked(club, browser) == str(GRACE)
    assert asked(club, stolen) == ''
    assert set(club.site.data()) == {'user_id', '_login_user_id'}


def test_the_same_user_again(club):
    """A second login of the same user keeps the session, with a new token."""
    browser = club.site.browser()
    club.do(browser, login())
    club.do(browser, acts.put(cart=['tea']))
    (first,) = club.site.rows()
    token = club.site.token(browser)
    club.do(browser, login())
    (second,) = club.site.rows()
    assert second['id'] == first['id']
    assert club.site.token(browser) != token
    assert club.site.data()['cart'] == ['tea']


def test_a_login_that_fails_later(make_club):
    """T2, T3: if the transaction aborts nobody is logged in."""
    club = make_club(configure=answering(acts.flash('sorry'), Failure))
    browser = shopper(club, a=1)
    token = club.site.token(browser)

    def fail(request):
        remember(request, GRACE)
        raise Failure

    response = club.do(browser, fail)
    assert acts.set_cookies(response) == []
    assert club.site.token(browser) == token
    assert asked(club, browser) == ''
    assert club.site.rows()[0]['user_id'] is None
    assert club.do(browser, acts.pop).text == 'sorry'


def test_an_id_that_does_not_fit_the_column(club):
    """D3: a user id of the wrong type is an error, nobody is logged in."""
    browser = club.site.browser()
    with pytest.raises(SessionFieldError, match='user_id'):
        club.do(browser, login('ada'))
    assert club.site.rows() == []


def test_another_field(make_club):
    """The setting user_field names the key, and so the column."""
    club = make_club(
        additional_fields='member: String(8)', user_field='member',
        max_sessions_per_user='1',
    )
    browsers = [club.site.browser() for _ in range(2)]
    for browser in browsers:
        club.do(browser, login('ada'))
        club.site.clock.advance(seconds=1)
    (row,) = club.site.rows()
    assert row['member'] == 'ada'
    assert [asked(club, browser) for browser in browsers] == ['', 'ada']


def test_nobody_cannot_log_in(club):
    """Section 3: None is the id that a new user has before a flush."""
    browser = shopper(club, cart=['tea'])
    with pytest.raises(SessionArgumentError, match='flush'):
        club.do(browser, login(None))
    assert club.site.data() == {'cart': ['tea']}


def test_a_user_column_of_another_name(make_club):
    """Section 2: max_sessions_per_user goes by the attribute's name."""

    class Own(DeclarativeBase):
        """The base of the model below."""

    class Visit(SessionMixin, Own):
        """A model whose user has a column of another name."""

        __tablename__ = 'sessions'
        user_id: Mapped[int] = mapped_column(
            'uid', nullable=True, server_default=sa.null()
        )

    club = make_club(
        additional_fields='', model=Visit, max_sessions_per_user='1'
    )
    browsers = [club.site.browser() for _ in range(2)]
    for browser in browsers:
        club.do(browser, login())
        club.site.clock.advance(seconds=1)
    assert [asked(club, browser) for browser in browsers] == ['', str(ADA)]
    # The sessions of nobody are not those of one user.
    for _ in range(2):
        shopper(club, cart=['tea'])

    def become_nobody(request):
        del request.session['user_id']
        request.session.rotate()

    club.do(browsers[1], become_nobody)
    assert [row['uid'] for row in club.site.rows()] == [None] * 3


def test_a_login_by_the_key_alone_counts(make_club):
    """max_sessions_per_user: also of who does not rotate the token."""
    club = make_club(max_sessions_per_user='1')
    browsers = [shopper(club, cart=['tea']) for _ in range(2)]
    for browser in browsers:
        club.site.clock.advance(seconds=1)
        club.do(browser, acts.put(user_id=ADA))
    (row,) = club.site.rows()
    assert row['user_id'] == ADA


@on_sqlite
def test_a_login_that_only_the_extension_knows(make_club):
    """max_sessions_per_user, D3: rotate() is one, whatever names the user."""

    def extend(defaults, session, request):
        return {'user_id': session.get('who')}

    def log_in(request):
        request.session['who'] = ADA
        request.session.rotate()

    club = make_club(extend_default_fields=extend, max_sessions_per_user='1')
    browsers = []
    for _ in range(2):
        # Which of two of one moment is the newer one would be chance.
        club.site.clock.advance(seconds=1)
        browsers.append(shopper(club, cart=['tea']))
    for browser in browsers:
        club.site.clock.advance(seconds=1)
        club.do(browser, log_in)
    (row,) = club.site.rows()
    assert row['user_id'] == ADA
    assert club.do(browsers[1], acts.look).text != '{}'


@on_sqlite
@pytest.mark.parametrize('message', [
    'unable to open database file', 'the table is worn out',
])
def test_a_limit_that_cannot_be_held(make_club, caplog, message):
    """Section 2: the login is stored by then, and is answered."""
    club = make_club(max_sessions_per_user='1')
    browsers = [club.site.browser() for _ in range(2)]

    @sa.event.listens_for(club.site.engine, 'do_execute')
    def refuse(cursor, statement, parameters, context):
        if 'DELETE FROM' in statement:
            raise sqlite3.OperationalError(message)

    for browser in browsers:
        club.do(browser, login())
        club.site.clock.advance(seconds=1)
    assert [asked(club, browser) for browser in browsers] == [str(ADA)] * 2
    assert f'surplus sessions were not ended: {message}' in caplog.text


@pytest.mark.parametrize('rotates', [False, True])
def test_the_limit_ends_no_login_of_an_old_visitor(make_club, rotates):
    """Section 2: the oldest logins end, however old the session is."""

    def log_in(request):
        request.session['user_id'] = ADA
        if rotates:
            request.session.rotate()

    club = make_club(max_sessions_per_user='2')
    browsers = []
    for _ in range(3):
        browsers.append(shopper(club, cart=['tea']))
        club.site.clock.advance(seconds=1)
    # The visitor who came first logs in last.
    for browser in reversed(browsers):
        club.do(browser, log_in)
        club.site.clock.advance(seconds=1)
    who_is_in = [asked(club, browser) for browser in browsers]
    assert who_is_in == [str(ADA), str(ADA), '']
    # What is no login changes no order.
    club.do(browsers[1], acts.put(cart=[], user_id=ADA))
    club.do(browsers[2], log_in)
    who_is_in = [asked(club, browser) for browser in browsers]
    assert who_is_in == [str(ADA), '', str(ADA)]


@pytest.mark.parametrize('userid', [ADA, GRACE])
def test_the_limit_ends_no_login_of_meanwhile(make_club, userid):
    """Section 2: a session that was too many, and has logged in since."""
    club = make_club(max_sessions_per_user='1')
    browsers = [club.site.browser() for _ in range(2)]
    club.do(browsers[0], login())
    club.site.clock.advance(seconds=1)
    again = []

    @sa.event.listens_for(club.site.engine, 'before_cursor_execute')
    def log_in_again(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement and not again:
            again.append(1)
            club.site.clock.advance(seconds=1)
            club.do(browsers[0], login(userid))

    club.do(browsers[1], login())
    assert again
    assert asked(club, browsers[0]) == str(userid)


@pytest.mark.parametrize('prefix', ['', 'auth.'])
def test_two_logins_at_once(club, prefix):
    """C5: two sessions, each of them whole, whatever the key is."""
    helper, browser = SessionAuthenticationHelper(prefix), shopper(club, n=1)

    def log_in(request):
        helper.remember(request, GRACE)

    slow = club.start(browser, log_in)
    club.do(browser, lambda request: helper.remember(request, ADA) and None)
    (cookie,) = acts.set_cookies(slow.finish())
    assert club.do(browser, helper.authenticated_userid).text == str(ADA)
    seen = club.seen(cookie)
    assert seen[f'{prefix}user_id'] == GRACE
    assert f'_login_{prefix}user_id' in seen
    assert 'n' not in seen


def test_a_password_that_is_confirmed_twice(club):
    """C5: the second confirmation leaves the user where the first one did."""
    browser = club.site.browser()
    club.do(browser, login())
    club.site.clock.advance(minutes=5)
    slow = club.start(browser, login())
    club.do(browser, login())
    assert acts.set_cookies(slow.finish()) == []
    assert asked(club, browser) == str(ADA)
    assert [row['user_id'] for row in club.site.rows()] == [ADA]


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_a_damaged_id_keeps_nobody_from_logging_in(make_club):
    """Section 2: SQLite keeps any value as an id; such a session ends, too."""
    club = make_club(max_sessions_per_user='1')
    browsers = [club.site.browser() for _ in range(2)]
    club.do(browsers[0], login())
    club.site.execute("UPDATE sessions SET id = 'abc'")
    club.site.clock.advance(seconds=1)
    club.do(browsers[1], login())
    assert asked(club, browsers[1]) == str(ADA)
    assert len(club.site.rows()) == 1


@pytest.mark.parametrize(('helper', 'key'), [
    (SessionAuthenticationHelper(field='admin_id'), 'admin_id'),
    # As Pyramid's own has it.
    (SessionAuthenticationHelper('auth.'), 'auth.user_id'),
    (SessionAuthenticationHelper(prefix='auth.'), 'auth.user_id'),
])
def test_a_key_of_the_helper(site, helper, key):
    """A helper can be given a key of its own, for a second kind of login."""
    club, browser = Meeting(site, None), site.browser()
    club.do(browser, lambda request: helper.remember(request, 1) and None)
    assert club.do(browser, helper.authenticated_userid).text == '1'
    assert site.rows()[0]['user_id'] is None
    assert site.data()[key] == 1


def test_without_an_additional_field(make_club):
    """A login works without a column for the user."""
    club = make_club(additional_fields='')
    browser = club.site.browser()
    club.do(browser, login('ada'))
    assert asked(club, browser) == 'ada'


@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
@pytest.mark.parametrize('act', [login(), logout])
def test_with_another_session_factory(make_club, act):
    """Sessions that cannot rotate or end are refused, in words."""
    club = make_club(
        configure=lambda config: config.set_session_factory(
            SignedCookieSessionFactory('secret')
        )
    )
    with pytest.raises(SessionError, match='another session factory'):
        club.do(club.site.browser(), act)


# -- forget ------------------------------------------------------------------


def test_logout(club):
    """forget ends the session on the server and removes the cookie."""
    browser = club.site.browser()
    club.do(browser, login())
    stolen = club.site.browser(like=browser)
    response = club.do(browser, logout)
    assert acts.set_cookies(response) == ['']
    assert club.site.rows() == []
    assert asked(club, browser) == ''
    assert asked(club, stolen) == ''


def test_logout_of_nobody(club):
    """R1: who is not logged in can log out, and it stores nothing."""
    response = club.do(club.site.browser(), logout)
    assert acts.set_cookies(response) == []
    assert club.site.rows() == []


def test_logout_and_login_at_once(club):
    """A change of users in one request leaves one session, of the second."""
    browser = club.site.browser()
    club.do(browser, login(ADA))
    club.do(browser, acts.put(letter='of Ada'))

    def change(request):
        forget(request)
        remember(request, GRACE)

    club.do(browser, change)
    (row,) = club.site.rows()
    assert row['user_id'] == GRACE
    assert 'letter' not in club.site.data()
    assert asked(club, browser) == str(GRACE)


# -- fresh -------------------------------------------------------------------


def fresh(max_age):
    """Return an act that shows whether the login is fresh."""
    return lambda request: SessionAuthenticationHelper().fresh(
        request, max_age
    )


@pytest.mark.parametrize(
    'max_age', [600, 600.0, '10m', '600', dt.timedelta(minutes=10)], ids=repr
)
def test_fresh(club, max_age):
    """A login is fresh as long as max_age, however that is given."""
    browser = club.site.browser()
    club.do(browser, login())
    assert club.do(browser, fresh(max_age)).text == 'True'
    club.site.clock.advance(seconds=600)
    assert club.do(browser, fresh(max_age)).text == 'True'
    club.site.clock.advance(seconds=2)
    assert club.do(browser, fresh(max_age)).text == 'False'


@pytest.mark.parametrize('max_age', ['15 min', '', None, True])
def test_fresh_with_what_is_no_duration(club, max_age):
    """The error names it, whether anybody is logged in or not."""
    browser = club.site.browser()
    for _ in range(2):
        with pytest.raises(ValueError, match='fresh: max_age = ') as caught:
            club.do(browser, fresh(max_age))
        assert repr(max_age) in str(caught.value)
        club.do(browser, login())


def test_fresh_after_using_the_site(club):
    """Using the site does not make the login any fresher; logging in does."""
    browser = club.site.browser()
    club.do(browser, login())
    for _ in range(4):
        club.site.clock.advance(minutes=5)
        club.do(browser, acts.rotate)
    assert club.do(browser, fresh('15m')).text == 'False'
    club.do(browser, login())
    assert club.do(browser, fresh('15m')).text == 'True'


@pytest.mark.parametrize(
    'data',
    [{}, *({'_login_user_id': login} for login in (10**12, True, 'now'))],
    ids=repr,
)
def test_never_fresh(club, data):
    """Without a login, or with a time that is none, nothing is fresh."""
    browser = shopper(club, user_id=ADA, **data)
    assert club.do(browser, fresh('365d')).text == 'False'
    assert club.do(club.site.browser(), fresh('365d')).text == 'False'


def test_fresh_is_of_each_kind_of_login(club):
    """ASVS 7.5.3: who logs in as a visitor is no fresh administrator."""
    admin = SessionAuthenticationHelper(field='admin_id')
    browser = club.site.browser()
    club.do(browser, lambda request: admin.remember(request, 1) and None)
    club.site.clock.advance(hours=1)
    club.do(browser, login())
    assert club.do(browser, fresh('15m')).text == 'True'
    assert club.do(browser, admin.authenticated_userid).text == '1'
    shown = club.do(browser, lambda request: admin.fresh(request, '15m'))
    assert shown.text == 'False'


def test_not_fresh_after_logout(club):
    """What was fresh is so no more after the logout."""
    browser = club.site.browser()
    club.do(browser, login())
    club.do(browser, logout)
    assert club.do(browser, fresh('1h')).text == 'False'


# -- the absolute timeout ----------------------------------------------------


@pytest.mark.parametrize(
    ('act', 'expected'), [(login(), str(ADA)), (acts.rotate, '')],
    ids=['login', 'rotate'],
)
def test_the_absolute_timeout_restarts_at_login(make_club, act, expected):
    """E1: a login begins the absolute timeout anew, rotate() does not."""
    club = make_club(absolute_timeout='10h', expiration='5h')
    browser = club.site.browser()
    club.do(browser, login())
    for _ in range(2):
        club.site.clock.advance(hours=4)
        club.do(browser, who)
    club.do(browser, act)
    club.site.clock.advance(hours=3)
    assert asked(club, browser) == expected


def test_a_login_without_the_helper(make_club):
    """E1: whoever sets the user of a session has logged in."""
    club = make_club(absolute_timeout='10h', expiration='10h')
    browser = shopper(club, cart=['tea'])
    club.site.clock.advance(hours=9)
    club.do(browser, acts.put(user_id=ADA))
    club.site.clock.advance(hours=9)
    # The same one again is no login, and neither is nobody.
    club.do(browser, acts.put(user_id=ADA))
    assert asked(club, browser) == str(ADA)
    club.do(browser, acts.put(user_id=None))
    club.site.clock.advance(hours=1)
    assert asked(club, browser) == ''
    assert club.do(browser, acts.look).text == '{}'


def test_use_does_not_extend_the_absolute_timeout(make_club):
    """Whoever is logged in has to do so again after the absolute timeout."""
    club = make_club(absolute_timeout='10h', expiration='5h')
    browser = club.site.browser()
    club.do(browser, login())
    for _ in range(9):
        club.site.clock.advance(hours=1)
        assert asked(club, browser) == str(ADA)
    club.site.clock.advance(hours=1)
    assert asked(club, browser) == ''


# -- devices -----------------------------------------------------------------


@pytest.mark.parametrize('how', ['revoke', 'revoke_where', 'revoke_all'])
def test_a_revoked_browser_is_out(club, how):
    """A revoked browser is out at its next request, this one stays."""
    here, there = club.site.browser(), club.site.browser()
    club.do(here, login())
    club.do(there, login())

    def revoke(request):
        store, this = request.session_store, request.session.id
        if how == 'revoke':
            (other,) = [s.id for s in store.find(user_id=ADA) if s.id != this]
            return store.revoke(other)
        if how == 'revoke_where':
            return store.revoke_where(user_id=ADA, except_id=this)
        return store.revoke_all(except_id=this)

    assert club.do(here, revoke).text == '1'
    assert asked(club, there) == ''
    assert asked(club, here) == str(ADA)


@pytest.mark.parametrize('how', ['revoke', 'revoke_where', 'revoke_all'])
def test_log_out_everywhere_removes_the_cookie_here(club, how):
    """R4: the request's own store has removed the row before ``forget``."""
    here, there = club.site.browser(), club.site.browser()
    club.do(here, login())
    club.do(there, login())

    def everywhere(request):
        store, this = request.session_store, request.session.id
        assert {
            'revoke': lambda: store.revoke(this),
            'revoke_where': lambda: store.revoke_where(user_id=ADA),
            'revoke_all': store.revoke_all,
        }[how]()
        assert store.revoke_where(user_id=GRACE) == 0
        return logout(request)

    with club.site.events(SessionInvalidated) as events:
        response = club.do(here, everywhere)
    assert acts.set_cookies(response) == ['']
    assert len(events) == 1
    assert club.site.token(here) is None
    assert asked(club, here) == ''


def test_a_logout_of_what_another_request_ended_sends_no_cookie(club, stage):
    """C5: it could overwrite the cookie of a login that came meanwhile."""
    here, there = club.site.browser(), club.site.browser()
    club.do(here, login())
    club.do(there, login(GRACE))

    def slow(request):
        assert not request.session_store.has_revoked
        answer = logout(request)
        stage.reach('out')
        return answer

    club.site.views['slow'] = slow
    started = stage.run(club.site.browser(like=here).get, '/slow')
    stage.wait('out')
    club.do(there, lambda r: r.session_store.revoke_where(user_id=ADA))
    stage.let('out')
    assert acts.set_cookies(started.result()) == []


# -- at once -----------------------------------------------------------------


def test_parallel_logins_of_two_users(club):
    """C5: two logins with one cookie have a session and data each."""
    browser = shopper(club, cart=['tea'])

    def slowly(request):
        remember(request, ADA)
        request.session['letter'] = 'of Ada'

    def quickly(request):
        remember(request, GRACE)
        request.session['letter'] = 'of Grace'

    slow = club.start(browser, slowly)
    club.do(browser, quickly)
    slow.finish()
    assert asked(club, browser) == str(GRACE)
    assert asked(club, slow.browser) == str(ADA)
    letters = {
        row['user_id']: club.site.application.codec.read(row['data'])[0]
        for row in club.site.rows()
    }
    assert letters[ADA]['letter'] == 'of Ada'
    assert letters[GRACE]['letter'] == 'of Grace'


def test_parallel_logins_of_one_user(make_club):
    """Two logins of a user at once both work, and count against the limit."""
    club = make_club(max_sessions_per_user='1')
    browser = shopper(club, cart=['tea'])
    slow = club.start(browser, login())
    club.do(browser, login())
    slow.finish()
    assert len(club.site.rows()) == 1
    found = sorted([asked(club, browser), asked(club, slow.browser)])
    assert found == ['', str(ADA)]


def test_a_request_in_flight_during_a_login(club):
    """C5: what a request with the old token does is not done as the user."""
    browser = shopper(club, n=0)

    def late(request):
        request.session['planted'] = True
        return who(request)

    slow = club.start(browser, late)
    club.do(browser, login())
    assert slow.finish().text == ''
    assert 'planted' not in club.site.data()
    assert asked(club, browser) == str(ADA)


def test_a_login_in_flight_during_a_logout(club):
    """C4: a login that began before a logout works, and revives nothing."""
    browser = club.visitor(letter='of Ada')
    slow = club.start(browser, login(GRACE))
    club.do(browser, logout)
    slow.finish()
    assert asked(club, slow.browser) == str(GRACE)
    assert set(club.site.data()) == {'user_id', '_login_user_id'}


def test_logins_with_conflict_retry(make_club):
    """C2: with ``retry`` a login that meets another one shows no error."""
    club = make_club(conflict='retry', retry=True)
    browser = shopper(club, n=0)
    slow = club.start(browser, login(ADA))
    club.do(browser, login(GRACE))
    slow.finish()
    assert asked(club, slow.browser) == str(ADA)
    assert asked(club, browser) == str(GRACE)


@on_sqlite
def test_a_login_past_the_login_page_is_fresh(make_site):
    """Section 3: a view that wants a recent login is satisfied with it."""
    site = make_site(additional_fields='user_id: Integer index')
    helper = SessionAuthenticationHelper()

    @site.view
    def fresh(request):
        return helper.fresh(request, max_age=60)

    browser = site.browser()
    testing.log_in(browser, user_id=ADA)
    assert browser.get('/fresh').text == 'True'
    site.clock.advance(minutes=2)
    assert browser.get('/fresh').text == 'False'
