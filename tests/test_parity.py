"""Each row of docs/parity.rst names something that exists and works.

A test stands behind each row: ``@row('resave')`` is the row that begins with
that word.
"""

import datetime as dt
from pathlib import Path
import re

from pyramid.exceptions import ConfigurationError
import pytest
import sqlalchemy as sa
from webtest import TestApp

import pyramid_sqlasession
from pyramid_sqlasession import scripts
from pyramid_sqlasession import SessionMixin
from pyramid_sqlasession import SQLASession
from pyramid_sqlasession import start_expiring_sessions
from pyramid_sqlasession import stop_expiring_sessions
from pyramid_sqlasession.scripts.arguments import parser
from pyramid_sqlasession.settings import read_settings

from .site import Base

PAGE = Path(__file__).parents[1] / 'docs' / 'parity.rst'
ROWS = {}


def row(*names):
    """Mark the test of one or more rows; it runs on SQLite."""

    def mark(test):
        for name in names:
            assert name not in ROWS
            ROWS[name] = test
        return pytest.mark.parametrize('database', ['sqlite'], indirect=True)(
            test
        )

    return mark


def cells():
    """Return the rows of the page: (there, here, start of the remarks)."""
    text = PAGE.read_text(encoding='utf-8')
    return re.findall(
        r'   \* - (``.*)\n     - (.*(?:\n       .*)*)\n     -(.*)', text
    )


def test_every_row_has_a_test():
    """No row without a test, no test without a row."""
    there = [cell[0].strip('`') for cell in cells()]
    assert sorted(there) == sorted(ROWS)
    assert len(there) == PAGE.read_text(encoding='utf-8').count('   * - ``')


def test_settings_and_methods_in_the_rows_exist():
    """What the middle column names is there."""
    settings = read_settings({}).__dict__
    store = pyramid_sqlasession.SessionStore
    for there, here, _ in cells():
        for name in re.findall(r'``([^`]+)``', here):
            word = name.partition(' = ')[0]
            if word.startswith('session_store.'):
                assert callable(getattr(store, word[14:].split('(')[0]))
            elif word.startswith('session.'):
                assert hasattr(SQLASession, word[8:].split('(')[0])
            elif word.startswith('psessions INI '):
                parser().parse_args(['x.ini', *word.split()[2:]])
            elif word == 'request.session':
                assert issubclass(SQLASession, dict)
            elif word.endswith('(app)'):
                assert word[:-5] in pyramid_sqlasession.__all__
            else:
                assert word in settings, (there, word)


def counter(request):
    """Count in the session; returns how often."""
    request.session['n'] = request.session.get('n', 0) + 1
    return request.session['n']


def look(request):
    """Return what the session holds, without its token."""
    return sorted(request.session.items())


# -- options of the store -----------------------------------------------------


@row('db')
def test_the_database(make_site, tmp_path):
    """The application's, by name of the attribute, or one of their own."""
    site = make_site()
    site.view(counter)
    site.browser().get('/counter')
    assert len(site.rows()) == 1
    other = make_site(
        url=f'sqlite:///{tmp_path}/other.sqlite', table_name='elsewhere'
    )
    other.view(counter)
    other.browser().get('/counter')
    with other.application.engine.connect() as connection:
        found = connection.scalar(sa.text('SELECT count(*) FROM elsewhere'))
    assert found == 1
    named = make_site(dbsession='dbsession', engine=site.engine)
    assert named.application.engine is site.engine


class Stored(SessionMixin, Base):
    """A table of the application's own."""

    __tablename__ = 'stored'

    colour: sa.orm.Mapped[str | None] = sa.orm.mapped_column(sa.String(16))


@row('table', 'modelKey')
def test_the_model(make_site):
    """A class of the application's own, by its dotted name."""
    site = make_site(model=f'{__name__}.Stored')

    @site.view
    def paint(request):
        request.session['colour'] = 'green'

    site.browser().get('/paint')
    assert [r['colour'] for r in site.rows()] == ['green']
    assert site.application.records.table.name == 'stored'


@row('tableName')
def test_the_name_of_the_table(make_site):
    """``sessions`` by default, or another one."""
    assert make_site().application.records.table.name == 'sessions'
    site = make_site(table_name='Sessions2')
    site.view(counter)
    site.browser().get('/counter')
    assert sa.inspect(site.outside).has_table('Sessions2')


@row('checkExpirationInterval')
def test_the_interval_of_the_cleaner(make_site):
    """15 minutes by default; 0 is off."""
    assert read_settings({}).check_expiration_interval == 15 * 60
    off = make_site(check_expiration_interval='0')
    assert off.application.cleaner is None
    on = make_site(check_expiration_interval='1h', create=False)
    assert on.application.cleaner.is_running


@row('expiration')
def test_the_idle_timeout_is_enforced(make_site):
    """24 hours; whoever comes later finds nothing, without any cleaner."""
    site = make_site(touch_interval='0')
    site.view(counter)
    browser = site.browser()
    browser.get('/counter')
    site.clock.advance(hours=23)
    assert browser.get('/counter').text == '2'
    site.clock.advance(hours=24, seconds=1)
    assert browser.get('/counter').text == '1'


@row('disableTouch')
def test_reading_extends_nothing(make_site):
    """No UPDATE by a request that reads, ever."""
    site = make_site(disable_touch='true')
    site.view(counter)
    site.view(look)
    browser = site.browser()
    browser.get('/counter')
    before = site.rows()
    site.clock.advance(hours=20)
    browser.get('/look')
    assert site.rows() == before


def lengths(defaults, session, request):
    """Fill a column from the session and the request."""
    return {'note': f'{request.path} {len(session)}'}


@row('extendDefaultFields', 'additionalFields')
def test_columns_besides_the_packages_own(make_site):
    """By the session's keys, or by a function that is called at each save."""
    fields = 'user_id: Integer index\nnote: String(64)'
    site = make_site(
        additional_fields=fields, extend_default_fields=f'{__name__}.lengths'
    )

    @site.view
    def login(request):
        request.session['user_id'] = 7

    site.view(counter)
    browser = site.browser()
    browser.get('/login')
    (row,) = site.rows()
    assert (row['user_id'], row['note']) == (7, '/login 1')
    browser.get('/counter')
    (row,) = site.rows()
    assert (row['user_id'], row['note']) == (7, '/counter 2')


# -- methods of the store -----------------------------------------------------


@row('sync()')
def test_the_table_is_made(make_site, tmp_path):
    """At start-up, by the application, or by the command."""
    by_setting = make_site(create=False, create_table='true')
    assert sa.inspect(by_setting.outside).has_table('sessions')
    by_view = make_site(create=False, table_name='second')

    @by_view.view
    def setup(request):
        request.session_store.create_table()

    by_view.browser().get('/setup')
    assert sa.inspect(by_view.outside).has_table('second')
    ini = write_ini(tmp_path)
    assert scripts.main([ini, 'table']) == 0
    engine = sa.create_engine(f'sqlite:///{tmp_path}/cli.sqlite')
    assert sa.inspect(engine).has_table('sessions')
    engine.dispose()


def app_of_the_command(global_config, **settings):
    """The application of :func:`write_ini`."""
    from pyramid.config import Configurator

    config = Configurator(settings=settings)
    config.include('pyramid_sqlasession')
    config.add_route('any', '/')
    config.add_view(
        lambda request: {'n': counter(request)}, route_name='any',
        renderer='json',
    )
    return config.make_wsgi_app()


def write_ini(folder):
    """Return the name of an ini file with an application behind it."""
    path = folder / 'parity.ini'
    path.write_text(f'''\
[app:main]
use = call:{__name__}:app_of_the_command
sqlalchemy.url = sqlite:///{folder}/cli.sqlite
sqlasession.check_expiration_interval = 0
''')
    return str(path)


@row('get(sid)')
def test_a_session_by_its_id(site):
    """The store reads any session by the public id."""
    site.view(counter)
    browser = site.browser()
    browser.get('/counter')

    @site.view
    def ask(request):
        return request.session_store.get(request.GET['id']).data

    (row,) = site.rows()
    assert site.browser().get(f'/ask?id={row["id"]}').text == "{'n': 1}"


@row('set(sid, data)', 'req.session.save()')
def test_the_commit_saves(site):
    """Nobody calls anything, and the row is there before the response."""
    site.view(counter)
    site.browser().get('/counter')
    assert site.data() == {'n': 1}
    assert not hasattr(SQLASession, 'save')
    assert not hasattr(pyramid_sqlasession.SessionStore, 'set')


@row('touch(sid)', 'req.session.touch()')
def test_touch(site):
    """By itself at most once in the interval, and whenever it is asked."""
    site.view(counter)
    site.view(look)

    @site.view
    def touch(request):
        request.session.touch()

    browser = site.browser()
    browser.get('/counter')
    first = site.rows()[0]['expires']
    site.clock.advance(seconds=30)
    browser.get('/look')
    assert site.rows()[0]['expires'] == first
    browser.get('/touch')
    second = site.rows()[0]['expires']
    assert second - first == dt.timedelta(seconds=30)
    site.clock.advance(seconds=60)
    browser.get('/look')
    assert site.rows()[0]['expires'] > second


@row('destroy(sid)', 'req.session.destroy()')
def test_the_end_of_a_session(site):
    """One's own by invalidate(), another's by revoke()."""
    site.view(counter)

    @site.view
    def out(request):
        request.session.invalidate()

    @site.view
    def end(request):
        return request.session_store.revoke(request.GET['id'])

    one, two = site.browser(), site.browser()
    one.get('/counter')
    one.get('/out')
    assert site.rows() == []
    assert site.token(one) is None
    two.get('/counter')
    (row,) = site.rows()
    assert one.get(f'/end?id={row["id"]}').text == '1'
    assert two.get('/counter').text == '1'


@row('length()')
def test_how_many_live(site):
    """Those that have run out are not counted."""
    site.view(counter)

    @site.view
    def count(request):
        return request.session_store.count()

    site.browser().get('/counter')
    site.clock.advance(hours=23)
    site.browser().get('/counter')
    assert site.browser().get('/count').text == '2'
    site.clock.advance(hours=2)
    assert site.browser().get('/count').text == '1'
    assert len(site.rows()) == 2


@row('clearExpiredSessions()')
def test_expired_rows_are_deleted(site, tmp_path, capsys):
    """By the store, or by the command."""
    site.view(counter)

    @site.view
    def clean(request):
        return request.session_store.delete_expired()

    site.browser().get('/counter')
    site.clock.advance(hours=48)
    assert site.browser().get('/clean').text == '1'
    assert site.rows() == []
    ini = write_ini(tmp_path)
    assert scripts.main([ini, 'table']) == 0
    assert scripts.main([ini, 'expire']) == 0


@row('startExpiringSessions()', 'stopExpiringSessions()')
def test_the_cleaner_starts_and_stops(make_site):
    """By itself at the start; again and again without harm."""
    site = make_site(check_expiration_interval='1h')
    assert site.application.cleaner.is_running
    for _ in range(2):
        stop_expiring_sessions(site.app)
        assert not site.application.cleaner.is_running
    for _ in range(2):
        start_expiring_sessions(site.app)
        assert site.application.cleaner.is_running


# -- options of express-session -----------------------------------------------


@row('secret')
def test_a_list_of_secrets(make_site):
    """The first signs, all verify; a forged cookie costs no statement."""
    old = make_site(secret='one')
    new = make_site(secret='two one')
    later = make_site(secret='two')
    for site in (old, new, later):
        site.view(counter)
    browser = old.browser()
    browser.get('/counter')
    assert new.browser(browser).get('/counter').text == '2'
    assert '.' in old.token(browser)
    stranger = later.browser(browser)
    later.listen()
    assert stranger.get('/counter').text == '1'
    assert 'SELECT' not in later.statements.verbs


@row('name')
def test_the_name_of_the_cookie(make_site):
    """``session`` by default."""
    assert read_settings({}).cookie_name == 'session'
    site = make_site(cookie_name='__Host-id')
    site.view(counter)
    response = site.browser(**{'wsgi.url_scheme': 'https'}).get('/counter')
    assert response.headers['Set-Cookie'].startswith('__Host-id=')


@row('store', 'genid', 'cookie.priority')
def test_what_there_is_not(site):
    """Such settings are errors that say so."""
    for name in ('store', 'genid', 'cookie_priority', 'resave'):
        with pytest.raises(ConfigurationError, match='unknown setting'):
            read_settings({f'sqlasession.{name}': 'true'})
    site.view(counter)
    response = site.browser().get('/counter')
    assert 'priority' not in response.headers['Set-Cookie'].lower()


@row('rolling')
def test_the_cookie_slides(make_site):
    """It is sent again whenever the expiry is extended."""
    site = make_site(touch_interval='0')
    site.view(counter)
    site.view(look)
    browser = site.browser()
    browser.get('/counter')
    for _ in range(3):
        site.clock.advance(seconds=1)
        answer = browser.get('/look')
        assert 'Max-Age=86400' in answer.headers['Set-Cookie']


@row('resave')
def test_what_was_not_changed_is_not_written(site):
    """A request that reads sends one SELECT."""
    site.view(counter)
    site.view(look)
    browser = site.browser()
    browser.get('/counter')
    site.listen()
    browser.get('/look')
    assert [v for v in site.statements.verbs if v != 'PRAGMA'] == ['SELECT']


@row('saveUninitialized')
def test_an_empty_session_is_not_stored(site):
    """No row, no cookie."""
    site.view(look)
    response = site.browser().get('/look')
    assert 'Set-Cookie' not in response.headers
    assert site.rows() == []


@row('unset')
def test_clear_keeps_and_invalidate_ends(site):
    """An emptied session has a row, an invalidated one has none."""
    site.view(counter)

    @site.view
    def clear(request):
        request.session.clear()

    @site.view
    def out(request):
        request.session.invalidate()

    browser = site.browser()
    browser.get('/counter')
    browser.get('/clear')
    assert site.data() == {}
    browser.get('/out')
    assert site.rows() == []


@row('proxy', 'cookie.secure')
def test_secure_by_the_scheme(make_site):
    """``auto`` goes by request.scheme; ``true`` is always."""
    site = make_site()
    site.view(counter)
    by_http = site.browser().get('/counter')
    by_https = site.browser(**{'wsgi.url_scheme': 'https'}).get('/counter')
    assert 'secure' not in by_http.headers['Set-Cookie'].lower()
    assert 'secure' in by_https.headers['Set-Cookie'].lower()
    always = make_site(cookie_secure='true')
    always.view(counter)
    response = always.browser().get('/counter')
    assert 'secure' in response.headers['Set-Cookie'].lower()


@row('cookie.domain', 'cookie.path', 'cookie.httpOnly', 'cookie.sameSite',
     'cookie.partitioned')
def test_attributes_of_the_cookie(make_site):
    """All of them are settings."""
    site = make_site(
        cookie_domain='example.com', cookie_path='/shop',
        cookie_httponly='false', cookie_samesite='None',
        cookie_secure='true', cookie_partitioned='true',
    )
    site.view(counter)
    browser = TestApp(site.app, extra_environ={'HTTP_HOST': 'example.com'})
    header = browser.get('/counter').headers['Set-Cookie']
    attributes = {part.strip().lower() for part in header.split(';')}
    assert {
        'domain=example.com', 'path=/shop', 'samesite=none', 'secure',
        'partitioned',
    } <= attributes
    assert 'httponly' not in attributes
    usual = make_site()
    usual.view(counter)
    header = usual.browser().get('/counter').headers['Set-Cookie'].lower()
    assert 'httponly' in header
    assert 'samesite=lax' in header
    assert 'domain' not in header


@row('cookie.maxAge', 'cookie.expires', 'req.session.cookie')
def test_the_life_of_one_session(site):
    """By seconds or by a date; the cookie follows."""

    @site.view
    def soon(request):
        request.session['n'] = 1
        request.session.set_expiry(600)

    @site.view
    def fixed(request):
        request.session['n'] = 2
        request.session.set_expiry(
            site.clock() + dt.timedelta(hours=1)
        )

    @site.view
    def expires(request):
        return (request.session.expires - site.clock()).total_seconds()

    browser = site.browser()
    assert 'Max-Age=600' in browser.get('/soon').headers['Set-Cookie']
    assert browser.get('/expires').text == '600.0'
    assert 'Max-Age=3600' in browser.get('/fixed').headers['Set-Cookie']
    assert browser.get('/expires').text == '3600.0'


# -- the session in a request -------------------------------------------------


@row('req.session.id')
def test_the_public_id(site):
    """It is that of the row, and no cookie."""

    @site.view
    def id(request):
        request.session['n'] = 1
        return str(request.session.id)

    browser = site.browser()
    assert browser.get('/id').text == 'None'
    found = browser.get('/id').text
    assert found == str(site.rows()[0]['id'])
    thief = site.browser()
    thief.set_cookie('session', found)
    thief.get('/id')
    assert len(site.rows()) == 2


@row('req.session.regenerate()')
def test_a_new_token(site):
    """invalidate() loses the data, rotate() keeps them."""
    site.view(counter)

    @site.view
    def rotate(request):
        request.session.rotate()

    @site.view
    def anew(request):
        request.session.invalidate()
        request.session['fresh'] = True

    browser = site.browser()
    browser.get('/counter')
    before = site.token(browser)
    browser.get('/rotate')
    assert site.token(browser) != before
    assert site.data() == {'n': 1}
    browser.get('/anew')
    assert site.data() == {'fresh': True}


@row('req.session.reload()')
def test_one_look_for_a_request(site, stage):
    """A request sees its session as it was, and merges at the commit."""
    site.view(counter)

    @site.view
    def slow(request):
        before = request.session['n']
        stage.reach('looked')
        request.session['slow'] = request.session['n'] == before

    browser = site.browser()
    browser.get('/counter')
    other = site.browser(browser)
    running = stage.run(browser.get, '/slow')
    stage.wait('looked')
    other.get('/counter')
    stage.let('looked')
    running.result()
    assert site.data() == {'n': 2, 'slow': True}


@row('store.all()')
def test_all_sessions(site):
    """find() without a field gives all of them, with one those of a user."""

    @site.view
    def login(request):
        request.session['user_id'] = int(request.GET['id'])

    @site.view
    def find(request):
        store = request.session_store
        return len(store.find()), len(store.find(user_id=7))

    site.browser().get('/login?id=7')
    site.browser().get('/login?id=8')
    assert site.browser().get('/find').text == '(2, 1)'


@row('store.clear()')
def test_the_end_of_all_sessions(site, tmp_path, capsys):
    """By the store, or by the command."""
    site.view(counter)

    @site.view
    def clear(request):
        return request.session_store.revoke_all()

    site.browser().get('/counter')
    site.browser().get('/counter')
    assert site.browser().get('/clear').text == '2'
    assert site.rows() == []
    ini = write_ini(tmp_path)
    assert scripts.main([ini, 'table']) == 0
    assert scripts.main([ini, 'revoke', '--all', '--yes']) == 0
