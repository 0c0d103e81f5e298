"""Sessions under the fixtures that Pyramid's cookiecutter makes (T7).

One transaction, doomed, and one ``dbsession`` for all requests of a test; at
its end all is rolled back.  The fixtures are those of the cookiecutter's
tests/conftest.py, but for the application, which is one for each test here:
its pool has one connection, so that whatever goes past the ``dbsession``
fails.
"""

import datetime as dt
import logging

from pyramid.response import Response
from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa
import transaction
import webtest
import zope.sqlalchemy

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession.cookie import new_token

from .failing import answering
from .failing import Failure
from .shop import with_views
from .site import Note

#: What ``fill`` puts in.
FILLED = "{'n': 1, 'list': [1]}"


def get_tm_session(session_factory, transaction_manager, request=None):
    """Return a session, as the cookiecutter's models/__init__.py does."""
    dbsession = session_factory(info={'request': request})
    zope.sqlalchemy.register(
        dbsession, transaction_manager=transaction_manager
    )
    return dbsession


def error_page(request):
    """An exception view that flashes, and says what it found."""
    request.session.flash('Please log in')
    return Response(str(request.session.get('n')), status=500)


@pytest.fixture
def site(make_site):
    """The application, with views that do one thing each."""
    site = with_views(make_site(
        additional_fields='user_id: Integer index',
        configure=answering(error_page),
        engine_options={'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 2},
    ))

    @site.view
    def login(request):
        request.session.rotate()
        request.session['user_id'] = 7

    @site.view
    def logout(request):
        request.session.invalidate()

    @site.view
    def append(request):
        request.session['list'].append(2)

    @site.view
    def fail(request):
        request.session['n'] = 2
        request.session.flash('Saved!')
        request.dbsession.add(Note(text='a note'))
        request.dbsession.flush()
        raise Failure

    return site


@pytest.fixture
def app(site):
    return site.app


@pytest.fixture
def tm():
    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    tm.doom()

    yield tm

    tm.abort()


@pytest.fixture
def dbsession(app, tm):
    session_factory = app.registry['dbsession_factory']
    return get_tm_session(session_factory, tm)


@pytest.fixture
def testapp(app, tm, dbsession):
    # override request.dbsession and request.tm with our own
    # externally-controlled values that are shared across requests but aborted
    # at the end
    return webtest.TestApp(app, extra_environ={
        'HTTP_HOST': 'example.com',
        'tm.active': True,
        'tm.manager': tm,
        'app.dbsession': dbsession,
    })


@pytest.fixture
def app_request(app, tm, dbsession):
    with prepare(registry=app.registry) as env:
        request = env['request']
        request.host = 'example.com'

        # without this, request.dbsession will be joined to the same
        # transaction manager but it will be using a different
        # sqlalchemy.orm.Session using a separate database transaction
        request.dbsession = dbsession
        request.tm = tm

        yield request


@pytest.fixture(autouse=True)
def _nothing_is_left(site, tm, request):
    """Check what every test here must leave: nothing."""
    yield
    tm.abort()
    assert site.rows() == []
    assert site.notes() == []
    tm.begin()


@pytest.fixture
def quiet(caplog):
    """Nothing is logged as an error, by the end of other fixtures either."""
    yield
    assert [
        record for when in ('call', 'teardown')
        for record in caplog.get_records(when)
        if record.levelno >= logging.ERROR
    ] == []


def stored(site, dbsession):
    """Return the data of all records, as the test's transaction sees them."""
    column = site.application.records.table.c.data
    return [
        site.application.codec.read(text)[0]
        for text in dbsession.connection().scalars(sa.select(column))
    ]


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
@pytest.mark.filterwarnings('ignore:Previous unbuffered')
def test_a_look_while_the_view_streams(testapp, site, dbsession):
    """T7: another connection would not see the session, in no case."""

    @site.view
    def export(request):
        rows = request.dbsession.scalars(
            sa.select(Note.text), execution_options={'yield_per': 2}
        )
        next(rows)
        return dict(request.session)

    dbsession.add_all([Note(text=str(number)) for number in range(9)])
    testapp.get('/fill')
    assert testapp.get('/export').text == FILLED


def test_from_request_to_request(testapp, site, dbsession):
    """T7: a session lives on in the test's transaction."""
    response = testapp.get('/fill')
    assert 'Set-Cookie' in response.headers
    for _ in range(2):
        assert testapp.get('/show').text == FILLED
    testapp.get('/append')
    assert stored(site, dbsession) == [{'n': 1, 'list': [1, 2]}]


def test_nothing_is_committed_meanwhile(testapp, site):
    """T7: nobody outside of the test sees the record."""
    testapp.get('/fill')
    assert site.rows() == []


def test_the_rollback_takes_the_session(testapp, site, tm):
    """T7: after it the cookie is unknown, a new session begins."""
    testapp.get('/fill')
    tm.abort()
    tm.begin()
    tm.doom()
    assert testapp.get('/show').text == '{}'
    testapp.get('/fill')
    assert testapp.get('/show').text == FILLED


def test_log_in_and_out(testapp, site, dbsession):
    """T7: rotate and invalidate change record and cookie at once."""
    testapp.get('/fill')
    token = site.token(testapp)
    testapp.get('/login')
    assert site.token(testapp) != token
    assert "'user_id': 7" in testapp.get('/show').text
    table = site.application.records.table
    assert dbsession.connection().scalars(
        sa.select(table.c.user_id)
    ).all() == [7]
    testapp.get('/logout')
    assert site.token(testapp) is None
    assert stored(site, dbsession) == []
    assert testapp.get('/show').text == '{}'


@pytest.mark.parametrize('beside', ['testapp', 'app_request'])
def test_two_browsers(request, beside, app, testapp, site, dbsession):
    """T7, C1: each has its own session in the same transaction."""
    request.getfixturevalue(beside)
    other = webtest.TestApp(app, extra_environ=testapp.extra_environ)
    testapp.get('/fill')
    other.get('/login')
    assert testapp.get('/show').text == FILLED
    assert other.get('/show').text == "{'user_id': 7}"
    other.get('/logout')
    assert testapp.get('/show').text == FILLED


def test_rows_that_the_test_made(testapp, site, dbsession):
    """T7: what the test adds and did not flush is no obstacle."""
    dbsession.add(Note(text='of the test'))
    testapp.get('/fill')
    dbsession.add(Note(text='another'))
    assert testapp.get('/show').text == FILLED
    assert dbsession.scalars(
        sa.select(Note.text).order_by(Note.text)
    ).all() == ['another', 'of the test']


def test_a_session_that_the_test_made(testapp, site, dbsession):
    """T7: the first request of all finds it, in the test's transaction."""
    token, now = new_token(), site.clock()
    dbsession.execute(site.application.records.table.insert(), {
        'id': token.id, 'secret_hash': token.secret_hash, 'version': 1,
        'data': '{"n":1,"list":[1]}', 'created': now, 'started': now,
        'accessed': now, 'rotated': now,
        'expires': now + dt.timedelta(hours=1),
        'sweep': now + dt.timedelta(hours=1),
    })
    testapp.set_cookie('session', site.application.cookies.value(token))
    assert testapp.get('/show').text == FILLED


def test_a_due_touch(testapp, site, dbsession):
    """T7, E2: it goes through the test's connection, and is seen there."""
    testapp.get('/fill')
    table = site.application.records.table
    expires = sa.select(table.c.expires)
    before = dbsession.connection().scalar(expires)
    site.clock.advance(minutes=10)
    response = testapp.get('/show')
    assert dbsession.connection().scalar(expires) > before
    assert 'Set-Cookie' in response.headers


def test_a_session_expires(testapp, site):
    """T7, E1: a frozen clock that moves ends it."""
    testapp.get('/fill')
    site.clock.advance(days=2)
    assert testapp.get('/show').text == '{}'


@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_an_exception_view(testapp, site, dbsession, visitor):
    """T7, T3: the view's words are gone although nothing aborts."""
    expected = {'_f_': ['Please log in']}
    if visitor == 'returning':
        testapp.get('/fill')
        expected |= {'n': 1, 'list': [1]}
    page = testapp.get('/fail', status=500)
    assert page.text == ('1' if visitor == 'returning' else 'None')
    assert stored(site, dbsession) == [expected]
    # The rows are an affair of the test: its transaction goes on.
    assert dbsession.scalars(sa.select(Note.text)).all() == ['a note']
    assert testapp.get('/show').text.count('Please log in') == 1


def test_an_exception_view_that_does_not_look(make_site, tm):
    """T7, T3: the view's words are gone then too."""
    site = make_site(configure=answering(lambda request: 'sorry'))

    @site.view
    def work(request):
        request.session['n'] = request.session.get('n', 0) + 1
        if 'fail' in request.params:
            raise Failure

    dbsession = get_tm_session(site.registry['dbsession_factory'], tm)
    browser = site.browser(**{
        'tm.active': True, 'tm.manager': tm, 'app.dbsession': dbsession,
    })
    browser.get('/work')
    browser.get('/work?fail=1')
    assert stored(site, dbsession) == [{'n': 1}]
    dbsession.close()


def test_a_view_that_fails(testapp, site, dbsession):
    """T7: an error that nobody answers leaves nothing, the test goes on."""

    @site.view
    def raise_other(request):
        request.session['n'] = 2
        raise ZeroDivisionError

    testapp.get('/fill')
    with pytest.raises(ZeroDivisionError):
        testapp.get('/raise_other')
    assert testapp.get('/show').text == FILLED


def test_an_error_of_the_database_is_answered(make_site, tm, caplog):
    """T7, T3: the error page comes; that nothing is written is in the log."""
    site = make_site(configure=answering(
        lambda request: request.session.flash('sorry') or 'a page',
        sa.exc.IntegrityError,
    ))

    @site.view
    def fail(request):
        request.session['n'] = 2
        request.dbsession.add_all([Note(text='same'), Note(text='same')])
        request.dbsession.flush()

    dbsession = get_tm_session(site.registry['dbsession_factory'], tm)
    browser = site.browser(**{
        'tm.active': True, 'tm.manager': tm, 'app.dbsession': dbsession,
    })
    assert browser.get('/fail').text == 'a page'
    assert 'the session could not be saved' in caplog.messages
    dbsession.rollback()
    dbsession.close()
    assert site.rows() == []


def test_a_savepoint_of_the_test(testapp, site, dbsession):
    """T7, T9: what a request stored goes with the test's savepoint."""
    testapp.get('/fill')
    savepoint = dbsession.begin_nested()
    testapp.get('/append')
    savepoint.rollback()
    assert testapp.get('/show').text == FILLED
    assert stored(site, dbsession) == [{'n': 1, 'list': [1]}]


def test_a_savepoint_of_a_view(testapp, site, dbsession):
    """T7, T9: a block that fails takes the session's part back."""

    @site.view
    def attempt(request):
        try:
            with request.dbsession.begin_nested():
                request.session['n'] = 2
                request.dbsession.add_all(
                    [Note(text='same'), Note(text='same')]
                )
                request.dbsession.flush()
        except sa.exc.IntegrityError:
            request.session.flash('That exists already')

    testapp.get('/fill')
    testapp.get('/attempt')
    assert stored(site, dbsession) == [
        {'n': 1, 'list': [1], '_f_': ['That exists already']}
    ]


def test_events(testapp, site):
    """T7: subscribers hear of sessions as they do in production."""
    with site.events(SessionCreated, SessionInvalidated) as events:
        testapp.get('/fill')
        testapp.get('/logout')
    assert [type(event) for event in events] == [
        SessionCreated, SessionInvalidated,
    ]


def test_statements_of_a_request(testapp, site):
    """T7, D4: no more statements than elsewhere, all on one connection."""
    testapp.get('/fill')
    site.listen()
    testapp.get('/show')
    testapp.get('/append')
    assert site.statements.verbs == ['SELECT', 'SELECT', 'UPDATE']


def test_a_response_callback(testapp, site):
    """T7, T8: what it puts in is stored with the rest."""

    @site.view
    def late(request):
        request.add_response_callback(
            lambda request, response: request.session.update(late=True)
        )

    testapp.get('/late')
    assert testapp.get('/show').text == "{'late': True}"


def test_a_late_change_is_reported(testapp, site, caplog):
    """T7, T8: after the response it is an error in the log."""

    @site.view
    def late(request):
        request.add_finished_callback(
            lambda request: request.session.update(too_late=True)
        )

    testapp.get('/late')
    assert 'too_late' in caplog.text
    assert testapp.get('/show').text == '{}'


def test_a_subrequest(testapp, site, dbsession):
    """T7, T9: it shares what the fixtures put into the environ."""

    @site.view
    def outer(request):
        request.session['outer'] = True
        inner = request.copy()
        inner.path_info = '/login'
        request.invoke_subrequest(inner, use_tweens=True)

    testapp.get('/fill')
    testapp.get('/outer')
    assert stored(site, dbsession) == [
        {'n': 1, 'list': [1], 'outer': True, 'user_id': 7}
    ]
    assert "'outer': True" in testapp.get('/show').text


# -- app_request --------------------------------------------------------------


def test_a_change_with_app_request(quiet, app_request, site):
    """T7: where no response is made, none came before the change."""
    site.views['fill'](app_request)


def test_a_view_called_with_app_request(app_request, site, caplog):
    """T7: reads and writes work, and nothing is complained of."""
    session = app_request.session
    site.views['fill'](app_request)
    session['list'].append(2)
    assert dict(session) == {'n': 1, 'list': [1, 2]}
    site.views['logout'](app_request)
    assert dict(session) == {}
    assert [
        record for record in caplog.records
        if record.levelno >= logging.WARNING
    ] == []


def test_requests_beside_app_request(app_request, testapp, site, dbsession):
    """T7: it is on the stack, below all requests of the ``testapp``."""
    app_request.session['mine'] = True
    testapp.get('/fill')
    assert testapp.get('/show').text == FILLED
    testapp.get('/fail', status=500)
    assert 'Please log in' in testapp.get('/show').text
    testapp.get('/login')
    testapp.get('/append')
    assert app_request.session == {'mine': True}
    assert [data['list'] for data in stored(site, dbsession)] == [[1, 2]]


def test_the_store_of_app_request(app_request, testapp, site):
    """T7: it sees and ends the sessions of the ``testapp``."""
    testapp.get('/login')
    (found,) = app_request.session_store.find(user_id=7)
    assert found.data == {'user_id': 7}
    assert app_request.session_store.revoke(found.id) == 1
    assert testapp.get('/show').text == '{}'


def test_the_cookie_of_the_testapp_in_app_request(
    app_request, testapp, site
):
    """T7: a test can open a session that a request has stored."""
    testapp.get('/fill')
    app_request.headers['Cookie'] = f'session={site.token(testapp)}'
    assert dict(app_request.session) == {'n': 1, 'list': [1]}


def test_app_request_does_not_join_other_requests(
    app_request, testapp, site, dbsession
):
    """T7: what nobody saves is not saved by somebody else's response."""
    app_request.session['mine'] = True
    testapp.get('/fill')
    assert stored(site, dbsession) == [{'n': 1, 'list': [1]}]


# -- one application for many tests -------------------------------------------


def test_one_after_the_other(site, app):
    """T7: nothing of a test reaches the next one of the same application."""
    for _ in range(3):
        tm = transaction.TransactionManager(explicit=True)
        tm.begin()
        tm.doom()
        dbsession = get_tm_session(app.registry['dbsession_factory'], tm)
        browser = webtest.TestApp(app, extra_environ={
            'tm.active': True, 'tm.manager': tm, 'app.dbsession': dbsession,
        })
        assert browser.get('/show').text == '{}'
        browser.get('/fill')
        assert len(stored(site, dbsession)) == 1
        tm.abort()


def test_a_real_request_after_it(site, tm, testapp):
    """T7: without the fixtures the same application commits."""
    testapp.get('/fill')
    tm.abort()
    tm.begin()
    browser = site.browser()
    browser.get('/fill')
    assert len(site.rows()) == 1
    browser.get('/logout')
