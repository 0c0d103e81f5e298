"""Sessions of requests that pyramid_retry runs again (T5)."""

import contextlib
import copy
import io

import pyramid_retry
from pyramid_retry import BeforeRetry
import pytest
import sqlalchemy as sa
import transaction

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SuspiciousCookie

from .failing import answering
from .failing import on_sqlite
from .failing import Passing
from .failing import raiser
from .failing import refuse_commits
from .failing import Voter
from .meeting import put
from .shop import with_views
from .site import Note

STORED = {'n': 1, 'list': [1]}
EVENTS = (SessionCreated, SessionInvalidated, SessionRotated)


def is_early(request):
    """Return whether another attempt may follow."""
    return not pyramid_retry.is_last_attempt(request)


# How an attempt fails that will be repeated.


def view_raises(request):
    """The view says that another attempt may succeed."""
    raise Passing


def vote_fails(request):
    """Another data manager refuses, when the session is written."""
    Voter(request, raiser(Passing), '~sqlalchemy!!')


def flush_fails(request):
    """The flush of the COMMIT runs into what an application retries."""
    request.tm.get().addBeforeCommitHook(raiser(Passing))


FAILURES = [view_raises, vote_fails, flush_fails]

#: The second kind of manager is not another one on a server.
both_managers = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [
        ('sqlite', 'explicit'), ('sqlite', 'implicit'),
        ('postgresql', 'explicit'), ('mariadb', 'explicit'),
    ],
    indirect=True,
)


@pytest.fixture
def make_shop(request, make_site):
    """A function that makes a site whose view ``work`` is repeated."""
    manager = {'explicit': 'pyramid_tm.explicit_manager', 'implicit': None}[
        getattr(request, 'param', 'explicit')
    ]

    def make(work, fail=view_raises, failing=is_early, **settings):
        site = make_site(
            retry=True, **{'tm.manager_hook': manager, **settings}
        )

        with_views(site)

        @site.view
        def attempt(request):
            answer = work(request)
            if 'bare' not in request.GET:
                request.dbsession.add(Note(text='a note'))
            if failing(request):
                fail(request)
            return answer

        return site

    yield make
    # The thread's manager is the next test's too.
    transaction.abort()


def returning(site):
    """Return a browser that has a stored session: ``{n: 1, list: [1]}``."""
    browser = site.browser()
    browser.get('/fill')
    return browser


def count_up(request):
    """What would count three times if an attempt began with another's."""
    session = request.session
    session['n'] = session.get('n', 0) + 1
    session.setdefault('list', []).append(2)
    session.flash('Saved!')


COUNTED = {'n': 2, 'list': [1, 2], '_f_': ['Saved!']}


@both_managers
def test_each_attempt_sees_the_database(make_shop):
    """T5: the change is made once, however often the view runs."""
    seen = []

    def work(request):
        seen.append(copy.deepcopy(dict(request.session)))
        count_up(request)

    for fail in FAILURES:
        site = make_shop(work, fail)
        seen.clear()
        returning(site).get('/attempt')
        assert seen == [STORED] * 3
        assert site.data() == COUNTED
        assert site.notes() == ['a note']
        site.execute('DELETE FROM sessions')
        site.execute('DELETE FROM notes')


@both_managers
def test_one_record_one_cookie_one_event(make_shop):
    """T5: a new visitor has one session after three attempts."""
    for fail in FAILURES:
        site = make_shop(count_up, fail)
        browser = site.browser()
        with site.events(*EVENTS) as events:
            response = browser.get('/attempt')
        assert site.data() == {'n': 1, 'list': [2], '_f_': ['Saved!']}
        assert [type(event) for event in events] == [SessionCreated]
        assert events[0].session_id == str(site.rows()[0]['id'])
        assert len(response.headers.getall('Set-Cookie')) == 1
        assert "'n': 1" in browser.get('/show').text
        site.execute('DELETE FROM sessions')
        site.execute('DELETE FROM notes')


@on_sqlite
@pytest.mark.parametrize(
    ('work', 'kind'),
    [
        (lambda request: request.session.rotate(), SessionRotated),
        (lambda request: request.session.invalidate(), SessionInvalidated),
    ],
    ids=['rotate', 'invalidate'],
)
@pytest.mark.parametrize('fail', FAILURES)
def test_rotate_and_invalidate_happen_once(make_shop, work, kind, fail):
    """T5: the cookie is that of the attempt that was committed."""
    site = make_shop(work, fail)
    browser = returning(site)
    token = site.token(browser)
    with site.events(*EVENTS) as events:
        response = browser.get('/attempt')
    assert [type(event) for event in events] == [kind]
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert site.token(browser) != token
    left = STORED if kind is SessionRotated else {}
    assert browser.get('/show').text == str(left)


@pytest.mark.parametrize('fail', FAILURES)
def test_the_last_attempt_fails(make_shop, fail):
    """T5, T2: nobody answers, nothing is stored."""
    site = make_shop(count_up, fail, failing=lambda request: True)
    browser = returning(site)
    before = site.rows()
    with site.events(*EVENTS) as events, pytest.raises(Passing):
        browser.get('/attempt')
    with pytest.raises(Passing):
        site.browser().get('/attempt')
    assert site.rows() == before
    assert site.notes() == []
    assert events == []


def flash_attempt(request):
    """An exception view that tells the attempts apart."""
    request.session.flash(f"page {request.environ['retry.attempt']}")


@on_sqlite
@pytest.mark.parametrize('settings', [
    {}, {'tm.commit_veto': 'pyramid_tm.default_commit_veto'},
], ids=['no veto', 'default veto'])
@pytest.mark.parametrize('fail', FAILURES)
def test_words_of_an_attempt_that_is_repeated(make_shop, fail, settings):
    """T3, T5: neither the view's nor the exception view's are stored."""
    # The page is a 200: the default veto lets all attempts commit.
    site = make_shop(
        count_up, fail,
        configure=answering(flash_attempt, Passing), **settings,
    )
    with site.events(*EVENTS) as events:
        returning(site).get('/attempt?bare=1')
        assert site.data() == COUNTED
        site.execute('DELETE FROM sessions')
        browser = site.browser()
        response = browser.get('/attempt?bare=1')
    assert site.data() == {'n': 1, 'list': [2], '_f_': ['Saved!']}
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert [type(event) for event in events] == [SessionCreated] * 2
    assert "'Saved!'" in browser.get('/show').text


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_the_error_page_of_the_last_attempt(make_shop, visitor):
    """T3, T5: its words are stored, once, and nobody else's."""
    for fail in FAILURES:
        site = make_shop(
            count_up, fail, failing=lambda request: True,
            configure=answering(flash_attempt, Passing),
        )
        site.execute('DELETE FROM sessions')
        browser = site.browser() if visitor == 'new' else returning(site)
        browser.get('/attempt')
        expected = {'_f_': ['page 2']}
        if visitor == 'returning':
            expected |= STORED
        assert site.data() == expected
        assert site.notes() == []
        assert "'page 2'" in browser.get('/show').text


@on_sqlite
def test_the_next_attempt_sees_what_others_stored(make_shop):
    """T5: another request commits between two attempts."""
    site = make_shop(count_up)
    browser = returning(site)
    other = site.browser(like=browser)

    @site.view
    def put(request):
        request.session['n'] = request.session['n'] + 10

    site.registry.registerHandler(
        lambda event: other.get('/put'), [BeforeRetry]
    )
    browser.get('/attempt')
    assert site.data() == {'n': 22, 'list': [1, 2], '_f_': ['Saved!']}


@on_sqlite
def test_the_session_ends_between_two_attempts(make_shop):
    """T5, C4: the next attempts have an empty one, and begin no other."""
    seen = []

    def work(request):
        seen.append(copy.deepcopy(request.session))
        count_up(request)

    site = make_shop(work)
    browser = returning(site)
    site.registry.registerHandler(
        lambda event: site.execute('DELETE FROM sessions'), [BeforeRetry]
    )
    with site.events(SessionWriteDropped) as dropped:
        response = browser.get('/attempt')
    assert seen == [STORED, {}, {}]
    assert site.rows() == []
    assert 'Set-Cookie' not in response.headers
    assert [event.reason for event in dropped] == ['gone']
    # That was this request; the next one is a new visitor's.
    browser.get('/attempt?bare=1')
    assert len(site.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('settings', [
    {'expiration': '1h', 'absolute_timeout': '1h'},
    {'expiration': '1h'},
], ids=['absolute', 'idle'])
def test_the_session_expires_between_two_attempts(make_shop, settings):
    """T5, E1: its write is dropped for that reason."""
    site = make_shop(count_up, **settings)
    browser = returning(site)
    site.registry.registerHandler(
        lambda event: site.clock.advance(hours=1), [BeforeRetry]
    )
    with site.events(SessionWriteDropped) as dropped:
        browser.get('/attempt')
    assert [event.reason for event in dropped] == ['expired']
    assert len(site.rows()) == 1


@on_sqlite
def test_a_login_when_the_session_ends_between_two_attempts(make_shop):
    """C4, C5: the next attempt logs in to a session of its own."""

    def work(request):
        request.session.rotate()
        count_up(request)

    site = make_shop(work)
    browser = returning(site)
    site.registry.registerHandler(
        lambda event: site.execute('DELETE FROM sessions'), [BeforeRetry]
    )
    browser.get('/attempt')
    assert site.data() == {'n': 1, 'list': [2], '_f_': ['Saved!']}
    assert "'n': 1" in browser.get('/show').text


@on_sqlite
def test_a_grace_that_ends_between_two_attempts(make_shop):
    """C5: the next attempt is no stranger's, and its write is dropped."""
    site = make_shop(count_up, renewal_grace='0')
    browser = returning(site)
    other = site.browser(like=browser)

    @site.view
    def rotate(request):
        request.session.rotate()

    def meanwhile(event):
        if event.request.environ['retry.attempt'] == 0:
            other.get('/rotate')

    site.registry.registerHandler(meanwhile, [BeforeRetry])
    with site.events(SessionWriteDropped, SuspiciousCookie) as seen:
        response = browser.get('/attempt')
    assert [event.reason for event in seen] == ['rotated']
    assert 'Set-Cookie' not in response.headers
    assert site.data() == STORED


@on_sqlite
def test_a_database_that_comes_back_between_two_attempts(make_shop):
    """T5, R3: what no attempt has opened is an unknown cookie all the same."""
    looks = []

    def away(request):
        error = SessionStoreUnavailable()
        pyramid_retry.mark_error_retryable(error)
        raise error

    site = make_shop(count_up, away, configure=answering(
        lambda request: looks.append(dict(request.session)),
        SessionStoreUnavailable,
    ))
    browser = returning(site)
    site.execute('DELETE FROM sessions')
    site.views['attempt'] = lambda request: (
        away(request) if is_early(request) else count_up(request)
    )
    response = browser.get('/attempt')
    assert looks == [{}, {}]
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert site.data()['n'] == 1


@on_sqlite
def test_a_database_that_goes_after_a_commit_by_hand(make_shop):
    """T5, R4: the cookie of what is stored is sent, whatever comes later."""

    def work(request):
        if not is_early(request):
            raise SessionStoreUnavailable
        count_up(request)
        request.tm.commit()
        request.tm.begin()

    site = make_shop(work, configure=answering(
        lambda request: request.session.flash('dropped'),
        SessionStoreUnavailable,
    ))
    response = site.browser().get('/attempt')
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert site.data()['n'] == 2


@pytest.mark.parametrize('looks', [True, False])
def test_a_duplicate_of_the_applications_at_the_commit(make_site, looks):
    """T5, C7: it is no conflict, whoever takes part in the transaction."""
    site = with_views(make_site(retry=True))
    attempts = []

    @site.view
    def add(request):
        attempts.append(request.environ['retry.attempt'])
        if looks:
            request.session['n'] = 2
        request.dbsession.add_all([Note(text='same'), Note(text='same')])

    browser = site.browser()
    browser.get('/fill')
    with pytest.raises(sa.exc.IntegrityError):
        browser.get('/add')
    assert attempts == [0]
    assert site.data()['n'] == 1


def test_a_duplicate_that_the_database_reports(make_shop):
    """T5, C7: what only the database can see is repeated as well."""

    def work(request):
        count_up(request)
        if request.environ['retry.attempt'] == 0:
            request.dbsession.execute(sa.text('SELECT 1'))
            error = sa.exc.OperationalError('', {}, locked(site))
            raise error

    site = make_shop(work, failing=lambda request: False)
    returning(site).get('/attempt')
    assert site.data() == COUNTED


@pytest.mark.parametrize('looks', [True, False])
def test_a_conflict_of_the_store_is_repeated(make_site, looks):
    """C7: also beside a session that is only read, or not looked at."""
    site = make_site(retry=True, additional_fields='user_id: Integer')
    refused = []

    @site.view
    def end_others(request):
        if looks:
            request.session.get('n')
        refused.append(1)
        if len(refused) < 3:
            with refusing(site):
                return request.session_store.revoke_where(user_id=7)
        return request.session_store.revoke_where(user_id=7)

    browser = site.browser()
    browser.get('/end_others')
    assert len(refused) == 3


@contextlib.contextmanager
def refusing(site):
    """Have each DELETE of a session be refused as a conflict."""

    def refuse(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            raise sa.exc.OperationalError('', {}, locked(site))

    sa.event.listen(site.engine, 'before_cursor_execute', refuse)
    try:
        yield
    finally:
        sa.event.remove(site.engine, 'before_cursor_execute', refuse)


def locked(site):
    """Return the driver's error for a conflict."""
    if site.database.name == 'sqlite':
        import sqlite3

        return sqlite3.OperationalError('database is locked')
    if site.database.name == 'postgresql':
        import psycopg

        return psycopg.errors.SerializationFailure()
    import pymysql

    return pymysql.err.OperationalError(1213, 'Deadlock found')


def test_one_record_although_an_attempt_committed_by_hand(make_shop):
    """T5, T9: what an attempt committed is the next one's session."""

    def work(request):
        request.session['n'] = request.session.get('n', 0) + 1
        request.tm.commit()
        request.tm.begin()

    site = make_shop(work)
    browser = site.browser()
    with site.events(*EVENTS) as seen:
        response = browser.get('/attempt')
    assert [type(event) for event in seen] == [SessionCreated]
    assert len(site.rows()) == 1
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert site.data() == {'n': 3}
    assert browser.get('/show').text == "{'n': 3}"


@on_sqlite
def test_an_attempt_rotated_and_committed_by_hand(make_shop):
    """T5, T9: its cookie was never sent; the visitor stays in."""

    def work(request):
        if request.environ['retry.attempt'] == 0:
            request.session.rotate()
            request.tm.commit()
            request.tm.begin()
        request.session['n'] = request.session.get('n', 0) + 1

    site = make_shop(work)
    browser = returning(site)
    with site.events(*EVENTS) as seen:
        browser.get('/attempt')
    assert [type(event) for event in seen] == [SessionRotated]
    assert browser.get('/show').text == "{'n': 2, 'list': [1]}"


def by_attempts(request, act):
    """Run *act* by the loop of the package transaction."""
    for attempt in request.tm.attempts(3):
        with attempt:
            act()


def by_hand(request, act):
    """Run *act* until it can be committed."""
    for _ in range(3):
        request.tm.begin()
        act()
        try:
            request.tm.commit()
            return
        except transaction.interfaces.TransientError:
            request.tm.abort()


def counting(request, seen, meanwhile):
    """Return a function that counts; at its first call *meanwhile* comes
    between.
    """
    def count():
        seen.append(request.session['n'])
        request.session['n'] += 1
        if len(seen) == 1:
            meanwhile()

    return count


@pytest.fixture
def looping(make_site):
    """A site whose views have transactions of their own."""
    return with_views(make_site(
        conflict='retry', **{'tm.activate_hook': lambda request: False}
    ))


@pytest.mark.parametrize('loop', [by_attempts, by_hand])
def test_a_view_that_runs_its_transaction_again(looping, loop):
    """C2, T9: after a conflict it goes on from what there is now."""
    site, seen = looping, []

    @site.view
    def attempt(request):
        loop(request, counting(request, seen, lambda: other.get('/count')))

    @site.view
    def count(request):
        request.session['n'] += 1

    browser = returning(site)
    other = site.browser(like=browser)
    browser.get('/attempt')
    assert seen == [1, 2]
    assert site.data() == {'n': 3, 'list': [1]}


@on_sqlite
def test_a_view_that_runs_again_after_it_has_begun_the_session(looping):
    """C2, T9: it goes on from what it has committed itself."""
    site, seen = looping, []

    @site.view
    def attempt(request):
        with request.tm:
            request.session['n'] = 1
        by_attempts(request, counting(request, seen, lambda: site.execute(
            'UPDATE sessions SET data = :data, version = 2', data='{"n":5}',
        )))

    browser = site.browser()
    browser.get('/attempt')
    assert seen == [1, 5]
    assert len(site.rows()) == 1
    assert browser.get('/show').text == "{'n': 6}"


@on_sqlite
def test_a_view_that_runs_again_when_its_session_has_ended(looping):
    """C4, C2: it stores nothing, and begins no other session."""
    site, seen = looping, []

    @site.view
    def attempt(request):
        def count():
            if seen:
                other.get('/end')
            seen.append(request.session.get('n'))
            request.session['n'] = 10
            if len(seen) == 1:
                other.get('/count')

        by_attempts(request, count)

    @site.view
    def count(request):
        request.session['n'] += 5

    @site.view
    def end(request):
        request.session.invalidate()

    browser = returning(site)
    other = site.browser(like=browser)
    answer = browser.get('/attempt')
    assert seen == [1, None]
    assert site.rows() == []
    assert answer.headers.getall('Set-Cookie') == []


def test_an_attempt_that_logged_in_and_committed_by_hand(make_shop):
    """Section 2, T5: ``max_sessions_per_user`` holds for its login, too."""

    def work(request):
        if 'user_id' not in request.session:
            request.session['user_id'] = 7
            request.tm.commit()
            request.tm.begin()

    site = make_shop(
        work, additional_fields='user_id: Integer', max_sessions_per_user='1',
        **{'retry.attempts': '2'},
    )
    browsers = [site.browser() for _ in range(2)]
    for browser in browsers:
        browser.get('/attempt?bare')
        site.clock.advance(seconds=1)
    assert [browser.get('/show').text for browser in browsers] == [
        '{}', "{'user_id': 7}"
    ]


@pytest.mark.parametrize(('change', 'end'), [
    ('renew', 'rotate'), ('extend', 'rotate'), ('renew', 'invalidate'),
])
def test_an_attempt_committed_by_hand_and_the_session_ended(
    make_shop, change, end
):
    """C5, T5: the next attempt only reads, and sends no dead cookie."""

    def work(request):
        if is_early(request):
            request.session['n'] = 2
            request.tm.commit()
            request.tm.begin()
            other.get('/end')
        else:
            assert dict(request.session) == {}

    site = make_shop(
        work, renewal_interval='10m' if change == 'renew' else '1h',
        **{'retry.attempts': '2'},
    )
    site.views['end'] = lambda request: getattr(request.session, end)()
    browser = returning(site)
    other = site.browser(like=browser)
    site.clock.advance(minutes=11)
    response = browser.get('/attempt')
    assert response.headers.getall('Set-Cookie') == []
    assert other.get('/show').text == (
        str(STORED | {'n': 2}) if end == 'rotate' else '{}'
    )


@pytest.fixture
def unmanaged(make_site):
    """A site with pyramid_retry, and without pyramid_tm's transaction."""
    return make_site(
        retry=True, **{'tm.activate_hook': lambda request: False}
    )


@on_sqlite
def test_attempts_without_a_transaction(unmanaged):
    """T5, T8: without pyramid_tm's transaction nothing is left either."""

    @unmanaged.view
    def attempt(request):
        count_up(request)
        if is_early(request):
            raise Passing

    browser = unmanaged.browser()
    with unmanaged.events(*EVENTS) as events:
        response = browser.get('/attempt')
    assert unmanaged.data() == {'n': 1, 'list': [2], '_f_': ['Saved!']}
    assert [type(event) for event in events] == [SessionCreated]
    assert len(response.headers.getall('Set-Cookie')) == 1


@on_sqlite
def test_a_copy_of_a_request_that_runs_again(unmanaged):
    """T5, C4: the copy looks first, and the request is in flight as before."""

    @unmanaged.view
    def attempt(request):
        if is_early(request):
            request.session.get('n')
            raise Passing
        subrequest = request.copy()
        subrequest.path_info = '/show'
        assert request.invoke_subrequest(subrequest).text == '{}'
        request.session['n'] = 2

    browser = returning(with_views(unmanaged))
    unmanaged.registry.registerHandler(
        lambda event: unmanaged.execute('DELETE FROM sessions'), [BeforeRetry]
    )
    response = browser.get('/attempt')
    assert unmanaged.rows() == []
    assert 'Set-Cookie' not in response.headers


@on_sqlite
def test_a_copy_with_another_cookie_when_the_request_runs_again(unmanaged):
    """T5, C4: what an earlier attempt has opened says nothing of it."""

    @unmanaged.view
    def attempt(request):
        request.session.get('n')
        if is_early(request):
            raise Passing
        subrequest = request.copy()
        subrequest.headers['Cookie'] = f'session={"A" * 64}'
        subrequest.path_info = '/mark'
        request.invoke_subrequest(subrequest)

    @unmanaged.view
    def mark(request):
        request.session['marked'] = True

    browser = returning(with_views(unmanaged))
    # The rows of one moment are in any order.
    unmanaged.clock.advance(seconds=1)
    with unmanaged.events(SessionWriteDropped) as dropped:
        browser.get('/attempt')
    assert dropped == []
    assert [row['data'] for row in unmanaged.rows()][1:] == ['{"marked":true}']


@on_sqlite
def test_a_suspicious_cookie_is_reported_once(make_shop):
    """T5, R3: three attempts with a wrong secret are one event."""
    site = make_shop(count_up)
    browser = returning(site)
    token = site.token(browser)
    wrong = token[:-1] + ('A' if token[-1] != 'A' else 'Q')
    forger = site.browser()
    forger.set_cookie('session', wrong)
    with site.events(SuspiciousCookie) as events:
        forger.get('/attempt')
    assert len(events) == 1


@on_sqlite
def test_the_csrf_token_of_the_page_is_the_stored_one(make_shop):
    """T5: the page of the last attempt shows a token that is accepted."""
    site = make_shop(lambda request: request.session.get_csrf_token())

    @site.view
    def token(request):
        return request.session.get_csrf_token()

    browser = site.browser()
    page = browser.get('/attempt').text
    assert browser.get('/token').text == page


def test_a_due_touch_of_a_repeated_request(make_shop):
    """T5, E2: the expiry is extended once."""
    site = make_shop(lambda request: request.session['n'])
    browser = returning(site)
    site.clock.advance(minutes=10)
    (before,) = site.rows()
    site.listen()
    assert browser.get('/attempt').text == '1'
    updates = [s for s in site.statements if 'UPDATE sessions' in s]
    assert len(updates) == 1
    assert site.rows()[0]['expires'] > before['expires']


def test_a_conflict_is_repeated(make_shop):
    """C2, T5: with ``conflict = retry`` the view runs on fresh data."""
    attempts = []

    def work(request):
        attempts.append(request.session['n'])
        request.session['n'] += 1
        if len(attempts) == 1:
            other.get('/put')

    site = make_shop(work, failing=lambda request: False, conflict='retry')

    @site.view
    def put(request):
        request.session['n'] += 10

    browser = returning(site)
    other = site.browser(like=browser)
    browser.get('/attempt')
    assert attempts == [1, 11]
    assert site.data()['n'] == 12


def in_a_file(request):
    """Send one in a form."""
    upload = request.POST['file'].file.read()
    # As libraries for forms do.
    del request.POST['file']
    return upload


def in_the_body(request):
    """Send one as it is."""
    return request.body_file.read()


@on_sqlite
@pytest.mark.parametrize('read', [in_a_file, in_the_body])
def test_an_upload_of_a_repeated_request(make_shop, read):
    """T5: the next attempt reads the body as the browser has sent it."""
    uploads = []
    site = make_shop(lambda request: uploads.append(read(request)))
    browser = returning(site)
    if read is in_a_file:
        browser.post('/attempt', upload_files=[('file', 'a.bin', b'x' * 9)])
    else:
        browser.put('/attempt', b'x' * 9)
    assert uploads == [b'x' * 9] * 3


@on_sqlite
def test_a_body_that_a_view_has_closed(make_shop):
    """T5: the request is repeated all the same, with what its error was."""

    def close(request):
        request.body_file = body = io.BytesIO(b'x')
        body.close()

    site = make_shop(close)
    returning(site).put('/attempt', b'x')
    assert site.notes() == ['a note']


@pytest.mark.parametrize('when', ['response', 'committed'])
def test_a_conflict_after_the_commit(make_site, when):
    """C2, T5: the request does not run again: its data are committed."""
    site = make_site(conflict='retry', retry=True)
    site.views['put'] = put(n=1)
    attempts = []

    @site.view
    def order(request):
        attempts.append(request.session['n'])
        request.dbsession.add(Note(text='an order'))
        if when == 'response':
            request.add_response_callback(lambda *_: change(request))
        else:
            request.tm.get().addAfterCommitHook(lambda ok: change(request))

    def change(request):
        other.get('/put')
        request.session['n'] += 1

    browser = site.browser()
    browser.get('/put')
    other = site.browser(like=browser)
    site.views['put'] = put(n=7)
    with pytest.raises(SessionError, match='Change it in the view'):
        browser.get('/order')
    assert attempts == [1]
    assert site.notes() == ['an order']
    assert site.data() == {'n': 7}


@on_sqlite
@pytest.mark.parametrize('attempts', [3, 1])
def test_a_conflict_without_a_transaction(make_site, caplog, attempts):
    """C2, T3, T8: it runs again; a page answers the last attempt alone."""
    site = make_site(
        conflict='retry', retry=attempts,
        configure=answering(
            lambda request: request.session.flash('Sorry!'), Exception
        ),
        **{'tm.activate_hook': lambda request: request.path != '/free'},
    )
    seen = []

    @site.view
    def free(request):
        seen.append(request.session['n'])
        request.session['n'] += 1
        if len(seen) == 1:
            other.get('/put')

    site.views['put'] = put(n=1)
    browser = site.browser()
    browser.get('/put')
    other = site.browser(like=browser)
    site.views['put'] = put(n=7)
    browser.get('/free')
    lost = 'the session could not be saved'
    if attempts == 1:
        assert (seen, site.data()) == ([1], {'n': 7, '_f_': ['Sorry!']})
        assert lost in caplog.messages
    else:
        assert (seen, site.data()) == ([1, 7], {'n': 8})
        assert lost not in caplog.messages


def meeting_late(site):
    """Return a browser whose ``/order`` meets another request, which puts
    n=7, after its commit.
    """
    site.views['put'] = put(n=1)
    browser = site.browser()
    browser.get('/put')
    other = site.browser(like=browser)
    site.views['put'] = put(n=7)

    @site.view
    def order(request):
        request.dbsession.add(Note(text='an order'))
        request.session.get('n')
        request.add_response_callback(change)

    def change(request, response):
        other.get('/put')
        request.session['n'] += 1

    return browser


@on_sqlite
@pytest.mark.parametrize('context', [Exception, SessionError])
def test_a_late_conflict_that_is_answered(make_site, context, caplog):
    """T5: neither the error nor the page that answers it runs it again."""
    site = make_site(
        conflict='retry', retry=True, configure=answering(
            lambda request: request.session.flash('Sorry!'), context
        ),
    )
    meeting_late(site).get('/order')
    assert site.notes() == ['an order']
    assert site.data() == {'n': 7, '_f_': ['Sorry!']}
    # The log has both.
    (said,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert isinstance(said.exc_info[1].__cause__, SessionConflict)


@on_sqlite
def test_a_late_conflict_whose_answer_meets_another(make_site):
    """T3, C2: the page's words are stored, and nobody's value is lost."""

    def page(request):
        request.session.flash('Sorry!')
        request.session['n'] += 1
        site.views['put'] = put(n=9)
        browser.get('/put')

    site = make_site(
        conflict='retry', retry=True, configure=answering(page, SessionError)
    )
    browser = meeting_late(site)
    browser.get('/order')
    assert site.data() == {'n': 9, '_f_': ['Sorry!']}


@on_sqlite
def test_a_late_conflict_of_a_session_that_a_tween_has_seen(make_site):
    """T5, T10: a look above pyramid_tm is no sign that it was not there."""

    def configure(config):
        config.add_tween(
            f'{__name__}.look_first', over='pyramid_tm.tm_tween_factory'
        )

    site = make_site(conflict='retry', retry=True, configure=configure)
    browser = meeting_late(site)
    with pytest.raises(SessionError, match='Change it in the view'):
        browser.get('/order')
    assert site.notes() == ['an order']


def look_first(handler, registry):
    """Return a tween that looks at the session before everybody else."""

    def tween(request):
        request.session.get('n')
        return handler(request)

    return tween


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_late_conflict_with_extend_default_fields(make_site):
    """T5, D3: nor does the database's own conflict run it again."""
    site = make_site(
        retry=True, extend_default_fields=lambda defaults, *_: defaults
    )

    @site.view
    def order(request):
        request.dbsession.add(Note(text='an order'))
        request.add_response_callback(
            lambda request, response: request.session.update(n=1)
        )

    refuse_commits(site, 99, '40001')
    with pytest.raises(SessionError, match='Change it in the view'):
        site.browser().get('/order')
    assert site.notes() == ['an order']
    assert site.rows() == []
