"""The fixtures that come with the package, in suites of their own (pytester).

Each suite has the cookiecutter's fixtures: ``tm`` doomed, ``dbsession`` and
``testapp``.
"""

from importlib import metadata
from pathlib import Path
import subprocess
import sys

import pytest

import pyramid_sqlasession

pytest_plugins = ['pytester']

PLUGIN = 'pyramid_sqlasession.pytest_plugin'

APPLICATION = """
    from pyramid.config import Configurator
    from pyramid.response import Response
    from pyramid.security import forget, remember
    from sqlalchemy.orm import sessionmaker
    import zope.sqlalchemy

    from pyramid_sqlasession.authentication import SessionAuthenticationHelper


    class Policy:
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


    def get_tm_session(session_factory, tm):
        dbsession = session_factory()
        zope.sqlalchemy.register(dbsession, transaction_manager=tm)
        return dbsession


    def dbsession(request):
        given = request.environ.get('app.dbsession')
        if given is not None:
            return given
        return get_tm_session(
            request.registry['dbsession_factory'], request.tm
        )


    def who(request):
        return Response(repr(request.authenticated_userid))


    def data(request):
        return Response(repr(dict(sorted(request.session.items()))))


    def login(request):
        return Response('ok', headerlist=remember(request, 8) or None)


    def logout(request):
        return Response('ok', headerlist=forget(request) or None)


    def main(engine, **settings):
        config = Configurator(settings={
            'tm.manager_hook': 'pyramid_tm.explicit_manager',
            'sqlasession.additional_fields': 'user_id: Integer index',
            'sqlasession.create_table': 'true',
            **settings,
        })
        config.registry['dbsession_factory'] = sessionmaker(engine)
        config.add_request_method(dbsession, reify=True)
        config.include('pyramid_sqlasession')
        config.set_security_policy(Policy())
        for view in (who, data, login, logout):
            config.add_route(view.__name__, f'/{view.__name__}')
            config.add_view(
                view, route_name=view.__name__,
                permission='view' if view is data else None,
            )
        return config.make_wsgi_app()
"""

CONFTEST = """
    from application import get_tm_session, main
    import pytest
    import sqlalchemy as sa
    import transaction
    from webtest import TestApp

    from pyramid_sqlasession import stop_expiring_sessions


    @pytest.fixture(scope='session')
    def dbengine(tmp_path_factory):
        folder = tmp_path_factory.mktemp('database')
        engine = sa.create_engine(f'sqlite:///{folder}/testing.sqlite')
        yield engine
        engine.dispose()


    @pytest.fixture(scope='session')
    def app(dbengine):
        app = main(dbengine)
        yield app
        stop_expiring_sessions(app)


    @pytest.fixture
    def tm():
        tm = transaction.TransactionManager(explicit=True)
        tm.begin()
        tm.doom()
        yield tm
        tm.abort()


    @pytest.fixture
    def dbsession(app, tm):
        return get_tm_session(app.registry['dbsession_factory'], tm)


    @pytest.fixture
    def testapp(app, tm, dbsession):
        return TestApp(app, extra_environ={
            'HTTP_HOST': 'example.com', 'tm.active': True, 'tm.manager': tm,
            'app.dbsession': dbsession,
        })


    @pytest.fixture
    def rows(dbengine):
        def rows():
            with dbengine.connect() as connection:
                return connection.scalar(
                    sa.text('SELECT count(*) FROM sessions')
                )
        return rows
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """A function that runs a suite of tests; returns its result."""
    # The package that is tested here, installed or not.
    root = Path(pyramid_sqlasession.__file__).parents[1]
    monkeypatch.setenv('PYTHONPATH', str(root))
    pytester.makepyfile(application=APPLICATION)
    pytester.makeconftest(CONFTEST)

    def run(tests='', *options, **modules):
        pytester.makepyfile(**modules or {'test_it': tests})
        return pytester.runpytest_subprocess(
            '-p', 'no:cacheprovider', *_plugin(), *options
        )

    return run


def _plugin():
    # The entry point is there only if the package was installed.
    names = [e.name for e in metadata.entry_points(group='pytest11')]
    return [] if 'pyramid_sqlasession' in names else ['-p', PLUGIN]


LOGGED_IN = """
        def test_logged_in(testapp, login_session, rows):
            testapp.get('/data', status=403)
            login_session(testapp, user_id=7, cart=['tea'])
            assert testapp.get('/who').text == '7'
            assert "'cart': ['tea']" in testapp.get('/data').text
            assert rows() == 0

        def test_rolled_back(testapp, rows):
            assert testapp.get('/who').text == 'None'
            assert rows() == 0
    """

FROM_LOGIN_TO_LOGIN = """
        def test_logout_and_login(testapp, login_session):
            login_session(testapp, user_id=7)
            testapp.get('/logout')
            assert testapp.get('/who').text == 'None'
            assert 'session' not in testapp.cookies
            testapp.get('/login')
            assert testapp.get('/who').text == '8'

        def test_login_as_another(testapp, login_session):
            testapp.get('/login')
            login_session(testapp, user_id=7)
            assert testapp.get('/who').text == '7'
            testapp.get('/login')
            assert testapp.get('/who').text == '8'
            assert len(list(testapp.cookiejar)) == 1

        def test_two_browsers(testapp, login_session, app):
            from webtest import TestApp
            other = TestApp(app, extra_environ=testapp.extra_environ)
            login_session(testapp, user_id=7)
            login_session(other, user_id=9)
            assert testapp.get('/who').text == '7'
            assert other.get('/who').text == '9'
    """

OUTSIDE = """
        import pytest
        from webtest import TestApp

        def test_logged_in(app, login_session, rows):
            browser = TestApp(app)
            login_session(browser, user_id=7)
            assert rows() == 1
            assert browser.get('/who').text == '7'

        def test_secure(dbengine, login_session):
            from application import main
            from pyramid_sqlasession import stop_expiring_sessions
            app = main(dbengine, **{'sqlasession.cookie_secure': 'true'})
            stop_expiring_sessions(app)
            with pytest.raises(Exception, match='speaks http'):
                login_session(TestApp(app), user_id=7)
            browser = TestApp(app, {'wsgi.url_scheme': 'https'})
            login_session(browser, user_id=7)
            assert browser.get('/who').text == '7'

        @pytest.mark.parametrize('name', ['shop.example', '.shop.example'])
        def test_domain(dbengine, login_session, name):
            from application import main
            from pyramid_sqlasession import stop_expiring_sessions
            domain = {'sqlasession.cookie_domain': name}
            app = main(dbengine, **domain)
            stop_expiring_sessions(app)
            browser = TestApp(app)
            with pytest.raises(Exception, match='cookie_domain') as caught:
                login_session(browser, user_id=7)
            assert "'localhost:80'" in str(caught.value)
            assert "'HTTP_HOST': 'www.shop.example'" in str(caught.value)
            browser = TestApp(app, {'HTTP_HOST': 'www.shop.example'})
            login_session(browser, user_id=7)
            assert browser.get('/who').text == '7'

        def test_the_current_request(dbengine, login_session):
            from pyramid.threadlocal import get_current_request
            from application import main
            from pyramid_sqlasession import stop_expiring_sessions
            def extend(defaults, session, request):
                found.append(get_current_request() is request)
                return defaults
            found = []
            extended = {'sqlasession.extend_default_fields': extend}
            app = main(dbengine, **extended)
            stop_expiring_sessions(app)
            login_session(TestApp(app), user_id=7)
            assert found == [True]
            assert get_current_request() is None

        def test_nothing_given(app, login_session):
            with pytest.raises(Exception, match='user_id=7'):
                login_session(TestApp(app))

        def test_no_browser(app, login_session):
            with pytest.raises(Exception, match='webtest.TestApp'):
                login_session(app, user_id=7)

        def test_its_value(app, login_session):
            value = login_session(TestApp(app), user_id=7)
            browser = TestApp(app)
            browser.set_cookie('session', value)
            assert browser.get('/who').text == '7'
    """

FROZEN = """
        def test_idle(app, testapp, login_session, freeze_sessions):
            clock = freeze_sessions(app)
            login_session(testapp, user_id=7)
            clock.advance(hours=23)
            assert testapp.get('/who').text == '7'
            clock.advance(hours=25)
            assert testapp.get('/who').text == 'None'

        def test_ways_to_advance(app, freeze_sessions):
            from datetime import timedelta
            import pytest
            clock = freeze_sessions(app)
            before = clock.time
            for time in (timedelta(hours=1), 3600, 3600.0, '1h', '3600'):
                clock.advance(time)
            clock.advance('30m', minutes=29, seconds=60)
            assert clock.time - before == timedelta(hours=6)
            with pytest.raises(ValueError, match='such as 90s'):
                clock.advance('soon')

        def test_thawed(app):
            import datetime
            now = app.registry['sqlasession'].now()
            real = datetime.datetime.now(datetime.timezone.utc)
            assert abs(now - real) < datetime.timedelta(minutes=1)

        def test_twice(app, testapp, freeze_sessions):
            first = freeze_sessions(app)
            first.advance(hours=25)
            later = first.time
            second = freeze_sessions(testapp)
            assert second is first
            assert app.registry['sqlasession'].now() == later
    """


def test_in_the_cookiecutters_form(suite):
    """login_session logs in without a row, freeze_sessions stops the time."""
    # Through app.dbsession; its cookie is the one that the application's own
    # replace and remove; without tm.active the session is committed.  The time
    # is that of one application, until the test ends.
    suite(
        test_a_logged_in=LOGGED_IN, test_b_from=FROM_LOGIN_TO_LOGIN,
        test_c_frozen=FROZEN, test_d_outside=OUTSIDE,
    ).assert_outcomes(passed=17)


CLEANERS = """
    import threading

    from application import main
    import pytest

    def names():
        return [
            t.name for t in threading.enumerate() if 'sqlasession' in t.name
        ]

    @pytest.fixture
    def make_app(dbengine):
        return lambda: main(dbengine)
"""


def test_cleaners_of_a_test(suite):
    """stop_session_cleaners stops those that the test started, no others."""
    suite(CLEANERS + """
    kept = []

    def test_before(make_app):
        kept.append(make_app())
        assert len(names()) == 1

    def test_stopped(make_app, stop_session_cleaners):
        apps = [make_app(), make_app()]
        assert len(names()) == 3

    def test_after():
        assert len(names()) == 1
    """).assert_outcomes(passed=3)


def test_cleaners_of_a_run(suite):
    """no_session_cleaners stops every cleaner when the run ends."""
    done = suite(CLEANERS + """
    kept = []

    @pytest.fixture(scope='session', autouse=True)
    def look():
        yield
        assert names() == []

    @pytest.fixture(scope='session')
    def first(look, no_session_cleaners):
        pass

    def test_started(first, make_app):
        kept.append(make_app())
        assert len(names()) == 1
    """)
    done.assert_outcomes(passed=1)


CONNECTIONS = """
    from application import main
    import pytest
    import sqlalchemy as sa

    kept, closed = [], []

    @pytest.fixture
    def make_app(dbengine, tmp_path):
        def make():
            app = main(dbengine, **{
                'sqlasession.url': f'sqlite:///{tmp_path}/own.sqlite',
                'sqlasession.check_expiration_interval': '0',
            })
            engine = app.registry['sqlasession'].engine
            sa.event.listen(engine, 'close', lambda *_: closed.append(app))
            engine.connect().close()
            kept.append(app)
        return make
"""


def test_connections_of_a_test(suite):
    """stop_session_cleaners closes those of engines made in it, no others."""
    suite(CONNECTIONS + """
    def test_before(make_app):
        make_app()

    def test_closed(make_app, stop_session_cleaners):
        make_app()
        assert closed == []

    def test_after():
        assert closed == kept[1:]
    """).assert_outcomes(passed=3)


def test_connections_of_a_run(suite):
    """no_session_cleaners closes those that the package has, at the end."""
    suite(CONNECTIONS + """
    @pytest.fixture(scope='session', autouse=True)
    def look():
        yield
        assert closed == kept != []

    @pytest.fixture(scope='session')
    def first(look, no_session_cleaners):
        pass

    def test_made(first, make_app):
        make_app()
        assert closed == []
    """).assert_outcomes(passed=1)


def test_connections_to_a_database_in_memory(suite):
    """E4: they are closed with the application, and not before."""
    suite("""
    from application import main
    import gc
    import sqlalchemy as sa

    kept, closed = [], []

    def test_made(dbengine, stop_session_cleaners):
        kept.append(main(dbengine, **{
            'sqlasession.url': 'sqlite://',
            'sqlasession.check_expiration_interval': '0',
        }))
        engine = kept[0].registry['sqlasession'].engine
        sa.event.listen(engine, 'close', lambda *_: closed.append(1))
        engine.connect().close()

    def test_used():
        kept[0].registry['sqlasession'].engine.connect().close()
        assert closed == []

    def test_gone():
        kept.clear()
        gc.collect()
        assert closed == [1]
    """).assert_outcomes(passed=3)


def test_nothing_is_automatic(suite):
    """A suite that asks for no fixture of ours runs none of them."""
    done = suite("""
        def test_nothing(request):
            assert request.fixturenames == ['request']
    """, '--setup-show')
    done.assert_outcomes(passed=1)
    done.stdout.no_fnmatch_line('*session_cleaners*')


def printed_by(program):
    """Return what *program* prints in a process of its own."""
    return subprocess.run(
        [sys.executable, '-c', program], check=True, capture_output=True,
        text=True, timeout=60,
    ).stdout


def test_the_plugin_costs_no_import():
    """Somebody else's tests import neither Pyramid nor SQLAlchemy for it."""
    program = (
        f'import sys, {PLUGIN}; '
        'print([n for n in ("pyramid", "sqlalchemy", "zope", "transaction", '
        '"orjson", "opentelemetry", "webtest") if n in sys.modules])'
    )
    assert printed_by(program) == '[]\n'


def test_time_that_is_stopped_before_the_first_use():
    """E4: freezegun, which looks at all modules, changes no clock for good."""
    program = (
        f'import {PLUGIN}, freezegun\n'
        'with freezegun.freeze_time("2020-01-01"): pass\n'
        'from pyramid_sqlasession.application import utcnow\n'
        'print(utcnow().year > 2020)'
    )
    assert printed_by(program) == 'True\n'
