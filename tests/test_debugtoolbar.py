"""The panel of pyramid_debugtoolbar: what it says, and that it only listens.

Each test makes a request and reads the toolbar's page about it.
"""

import html
import re

from pyramid.config import Configurator
from pyramid.response import Response
import pytest
import sqlalchemy as sa
from webtest import TestApp

from pyramid_sqlasession import SessionStoreUnavailable

from . import meeting as acts
from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .failing import refuse_connections
from .meeting import Meeting
from .site import Note
from .toolbar import INCLUDES
from .toolbar import toolbar_page

PANEL = 'pDebugPanel-sqlasession'


def text_of(page):
    """Return the words of our panel on a page of the toolbar."""
    _, found, rest = page.partition(f'id="{PANEL}-content"')
    assert found, 'the panel is not on the page'
    panel, _, _ = rest.partition('<div id="pDebugPanel-')
    words = html.unescape(re.sub(r'<[^>]*>', ' ', panel))
    return ' '.join(words.split())


class Watched:
    """A site with the toolbar, whose panel tells of the last request."""

    def __init__(self, site):
        self.site = site

    def visit(self, browser, view):
        """Make a request; return what the panel says about it."""
        self.site.view(view)
        browser.get(f'/{view.__name__}')
        return self.panel()

    def panel(self, number=1):
        """Return what the panel says about the last request."""
        return text_of(toolbar_page(self.site.app, number))

    def browser(self, like=None):
        """Return a browser that the toolbar is for."""
        return self.site.browser(like=like, REMOTE_ADDR='127.0.0.1')

    def visitor(self, **data):
        """Return a browser with a stored session."""
        browser = self.browser()
        self.visit(browser, acts.put(**data or {'n': 0}))
        self.site.listen()
        return browser


@pytest.fixture
def make_watched(make_site):
    """A function that makes a ``Watched`` with given settings."""

    def make(configure=None, **settings):
        def include(config):
            config.include('pyramid_debugtoolbar')
            if configure is not None:
                configure(config)

        settings.setdefault('additional_fields', 'user_id: Integer index')
        site = make_site(configure=include, **INCLUDES, **settings)
        # Its panels listen to all engines.
        site.engine._has_events = site.engine.dialect._has_events = True
        return Watched(site)

    return make


@pytest.fixture
def watched(make_watched):
    """A ``Watched`` with the default settings."""
    return make_watched()


def read(request):
    """Only look."""
    return request.session.get('n')


def ignore(request):
    """Have nothing to do with the session."""


# -- what it says ------------------------------------------------------------


@on_sqlite
def test_what_was_loaded(watched):
    """Id, times and version of the record that was loaded are shown."""
    browser = watched.visitor()
    (row,) = watched.site.rows()
    panel = watched.visit(browser, read)
    for words in (
        'The session was loaded.', f'id {row["id"]}', 'new False',
        f'created {watched.site.clock()}', 'expires 2026-11-24 12:00',
        'version 1',
    ):
        assert words in panel


@on_sqlite
def test_a_visitor_without_a_cookie(watched):
    """Without a cookie the panel says so, and that nothing was written."""
    panel = watched.visit(watched.browser(), read)
    assert 'No cookie came' in panel
    assert 'Nothing was written.' in panel
    assert "Statements None." in panel


def change(request):
    """Change the session in every way."""
    session = request.session
    session['added'] = 'what nobody may see'
    del session['n']
    session.flash('hello', 'news')


@on_sqlite
def test_what_the_request_changed(watched):
    """Keys set, keys deleted and flash are named, the values are not."""
    panel = watched.visit(watched.visitor(n=1, m=2), change)
    assert 'committed The session was updated' in panel
    assert 'keys set added keys deleted n flash news: 1 added' in panel
    assert 'what nobody may see' not in panel


def flash_once(request):
    """Flash a message that must not be there twice."""
    request.session.flash('again', 'news', allow_duplicate=False)


def take(request):
    """Take what change() has flashed."""
    request.session.pop_flash('news')


def answer(request):
    """Take it, and flash something."""
    request.session.pop_flash('news')
    request.session.flash('well', 'news')


def reword(request):
    """Change it, in place."""
    request.session['_f_news'][0] = 'well'


@on_sqlite
@pytest.mark.parametrize(
    ('view', 'words'),
    [
        (change, 'flash news: 1 added'), (take, 'flash news: taken'),
        (answer, 'flash news: 1 added, taken'),
        (reword, 'flash news: 1 added'),
        (flash_once, 'flash news: 1 added'),
    ],
)
def test_what_became_of_a_flash_queue(watched, view, words):
    """C6: messages that were added, and whether others were taken."""
    browser = watched.visitor(n=1)
    if view is not change:
        watched.visit(browser, change)
    panel = watched.visit(browser, view)
    _, found, rest = panel.partition(words)
    assert found
    assert not rest.startswith(',')


@pytest.mark.parametrize(
    ('act', 'title'),
    [
        (acts.put(a=1), 'The session was updated'),
        (acts.rotate, 'The session was updated and has a new token'),
        (acts.logout, 'The session was deleted'),
        (acts.logout_and_say_so, 'A new session was inserted'),
    ],
)
@on_sqlite
def test_each_kind_of_write(watched, act, title):
    """An update, a rotation and an end are told apart."""
    browser = watched.visitor()
    assert f'committed {title}' in watched.visit(browser, act)


def expire(request):
    """Have it live for a short time."""
    request.session.set_expiry(600)


@pytest.mark.parametrize(
    ('act', 'notes'),
    [
        (expire, 'expires 2026-11-23 12:10:00+00:00 set_expiry()'),
        (acts.csrf, 'first CSRF token'),
        (acts.rotate, 'new CSRF token at its next use'),
        (acts.logout, 'session {id} was deleted'),
        (
            acts.logout_and_say_so,
            'expires 2026-11-24 12:00:00+00:00 session {id} was deleted',
        ),
    ],
    ids=['expiry', 'csrf', 'rotate', 'end', 'anew'],
)
@on_sqlite
def test_what_else_a_write_did(watched, act, notes):
    """E1, C6: an expiry, a CSRF token and an end are named beside the keys."""
    browser = watched.visitor()
    (row,) = watched.site.rows()
    panel = watched.visit(browser, act)
    assert f' also {notes.format(id=row["id"])} Statements' in panel


def test_each_statement_with_its_duration(watched):
    """The statements on the sessions' table are shown, no others."""
    browser = watched.visitor()

    def act(request):
        request.session['a'] = 1
        request.dbsession.add(Note(text='of the application'))

    panel = watched.visit(browser, act)
    _, _, listed = panel.partition('Statement on the sessions\' table')
    verbs = re.findall(
        r'(\d+\.\d\d) (\d+ rows? )?(?:/\*.*?\*/ )?'
        r'(SELECT|INSERT|UPDATE|DELETE)', listed
    )
    assert [verb for _, _, verb in verbs] == ['SELECT', 'UPDATE']
    assert verbs[1][1] == '1 row '
    assert any(float(duration) > 0 for duration, _, _ in verbs)
    assert 'notes' not in listed


def test_a_statement_that_failed(make_watched):
    """A statement that the database refused is there, with its error."""
    # The stock panel looks at the session, and fails, after the view.
    watched = make_watched(
        configure=answering(ignore, Exception),
        **{'debugtoolbar.panels': 'sqlasession'},
    )
    browser = watched.visitor()
    watched.site.execute('DROP TABLE sessions')
    panel = watched.visit(browser, read)
    assert re.search(r'Error SELECT|ProgrammingError SELECT|Undefined', panel)


@on_sqlite
def test_a_database_that_is_away(make_watched):
    """D1: the panel has the time of the look that was in vain."""
    watched = make_watched(
        engine_options={'poolclass': sa.NullPool},
        configure=answering(read, SessionStoreUnavailable),
        **{'debugtoolbar.panels': 'sqlasession'},
    )
    browser = watched.visitor()
    refuse_connections(watched.site.engine, delay=0.02)
    panel = watched.visit(browser, read)
    assert 'The database does not answer. ' in panel
    assert float(re.search(r'([0-9.]+) ms', panel)[1]) > 10


@pytest.mark.parametrize(
    ('act', 'words'),
    [
        (read, 'No Set-Cookie: nothing to update.'),
        (acts.put(a=1), 'No Set-Cookie: nothing to update.'),
        (acts.rotate, 'Set-Cookie: the session has a new token.'),
        (acts.logout, 'Set-Cookie: the session was invalidated.'),
        (acts.logout_and_say_so, 'Set-Cookie: the session is new.'),
        (
            lambda request: request.session.touch(),
            'No Set-Cookie: nothing to update.',
        ),
        (ignore, 'No Set-Cookie: this request decided nothing about it.'),
    ],
    ids=['read', 'write', 'rotate', 'end', 'anew', 'touch', 'ignore'],
)
@on_sqlite
def test_the_cookie_and_why(watched, act, words):
    """The decision about the cookie comes with its reason."""
    browser = watched.visitor()
    watched.site.views['act'] = act
    response = browser.get('/act')
    panel = watched.panel()
    assert f'Cookie {words}' in panel
    assert ('Set-Cookie' in response.headers) == words.startswith('Set')


@on_sqlite
def test_a_touch(watched):
    """R11: a touch is told, and that the cookie is extended with it."""
    browser = watched.visitor()
    watched.site.clock.advance(minutes=2)
    (row,) = watched.site.rows()
    panel = watched.visit(browser, read)
    assert 'committed The session was touched' in panel
    assert (
        f'session {row["id"]} also expires 2026-11-24 12:02:00+00:00 ' in panel
    )
    assert 'Set-Cookie: the session lives longer.' in panel


@on_sqlite
@pytest.mark.parametrize('disable_touch', ['false', 'true'])
def test_a_renewal(make_watched, disable_touch):
    """A periodic new token is told, and is the cookie's reason."""
    watched = make_watched(renewal_interval='1h', disable_touch=disable_touch)
    browser = watched.visitor()
    watched.site.clock.advance(hours=2)
    panel = watched.visit(browser, read)
    assert 'The token was renewed' in panel
    assert 'Set-Cookie: the token was renewed.' in panel


def meet(watched, stage, meanwhile, act):
    """Return the panel of a request that does *act* after another one."""
    meeting = Meeting(watched.site, stage)
    browser = watched.visitor()

    def start(request):
        request.session.get('n')
        stage.reach('loaded')
        act(request)

    watched.site.view(start)
    copy = watched.browser(like=browser)
    slow = stage.run(copy.get, '/start')
    stage.wait('loaded')
    meeting.do(browser, meanwhile)
    stage.let('loaded')
    slow.result()
    # The other request began later: it is the last of the history.
    return watched.panel(2)


@pytest.mark.parametrize(
    ('meanwhile', 'words'),
    [
        (acts.put(other=1), 'the changes were merged'),
        (acts.logout, 'its row is gone'),
        (acts.rotate, 'another request logged in'),
    ],
    ids=['merge', 'end', 'rotate'],
)
def test_conflict_and_drop(watched, stage, meanwhile, words):
    """C1, C4, C5: a merged and a dropped write are told with the reason."""
    assert words in meet(watched, stage, meanwhile, acts.put(mine=1))


def test_a_session_beside_the_one_before(watched, stage):
    """C5: of two logins at once, the later one is told to be another one."""

    def log_in(request):
        request.session['user_id'] = 2
        request.session.rotate()

    panel = meet(watched, stage, acts.rotate, log_in)
    assert 'A new session was inserted' in panel
    assert 'the session before took nothing' in panel


def test_what_a_failed_view_had_changed(make_watched):
    """T3: what the view did is gone, what the exception view did is kept."""
    watched = make_watched(
        configure=answering(lambda request: request.session.flash('sorry'))
    )
    browser = watched.visitor()

    def fail(request):
        request.session['lost'] = 1
        raise Failure

    panel = watched.visit(browser, fail)
    assert 'The view raised Failure' in panel
    assert '(lost)' in panel
    assert 'flash (default): 1 added' in panel


@on_sqlite
def test_what_an_abort_took_back(watched):
    """T2: changes that were taken back by an abort are named."""
    browser = watched.visitor()

    def undo(request):
        request.session['lost'] = 1
        request.tm.abort()
        request.tm.begin()

    panel = watched.visit(browser, undo)
    assert 'The transaction was aborted' in panel
    assert '(lost)' in panel
    assert 'Nothing was written.' not in panel


@pytest.mark.parametrize(
    ('cookie', 'words'),
    [
        ('x', 'No cookie came'),
        ('A' * 64, 'has expired, was ended, or never was'),
    ],
    ids=['malformed', 'unknown'],
)
@on_sqlite
def test_why_nothing_was_loaded(watched, cookie, words):
    """R3: the panel tells apart the cookies that lead to nothing."""
    browser = watched.browser()
    browser.set_cookie('session', cookie)
    assert words in watched.visit(browser, read)


@on_sqlite
def test_a_forged_cookie(make_watched):
    """R3: a badly signed cookie is told, and that it cost no statement."""
    watched = make_watched(secret='seekrit')
    browser = watched.browser()
    browser.set_cookie('session', 'A' * 64 + '.' + 'B' * 43)
    panel = watched.visit(browser, read)
    assert 'badly signed' in panel
    assert 'Statements None.' in panel


@on_sqlite
def test_the_effective_settings(make_watched):
    """All settings are shown as one writes them, secrets masked."""
    watched = make_watched(
        secret='the-first-secret the-second', expiration='3h',
        absolute_timeout='30d', renewal_interval='90m',
        renewal_grace='90s', cookie_httponly='false', max_size='64KiB',
        additional_fields='user_id: Integer index\nnote: String(64) not null',
    )
    panel = watched.visit(watched.browser(), ignore)
    for words in (
        'expiration 3h', 'absolute_timeout 30d', 'touch_interval 60s',
        'renewal_interval 90m', 'renewal_grace 90s',
        'max_size 64KiB', 'cookie_httponly false', 'cookie_name session',
        'cookie_max_age as expiration', 'serializer json', 'engine.* none',
        'additional_fields user_id: Integer index, note: String(64) not null',
    ):
        assert f'sqlasession.{words}' in panel
    assert 'engine_options' not in panel
    assert 'the-first-secret' not in panel
    assert 'the-second' not in panel


@on_sqlite
def test_the_word_on_the_tab(watched):
    """The tab says in a word what became of the session."""
    browser = watched.browser()
    for act, word in (
        (ignore, None), (read, 'empty'), (acts.put(n=1), 'saved'),
        (read, 'read'),
    ):
        watched.visit(browser, act)
        tab = re.search(
            rf'id="{PANEL}".*?</li>', toolbar_page(watched.site.app), re.S
        )[0]
        found = re.search(r'class="badge[^>]*>([^<]*)<', tab)
        assert (found and found[1]) == word


# -- that it only listens ----------------------------------------------------


@on_sqlite
def test_it_never_loads(watched):
    """R2, R4: a request that ignores its session still does."""
    browser = watched.visitor()
    watched.site.view(ignore)
    response = browser.get('/ignore')
    assert watched.site.statements == []
    assert 'Vary' not in response.headers
    assert 'Set-Cookie' not in response.headers
    assert 'Nobody looked at the session' in watched.panel()


@on_sqlite
def test_it_never_makes_the_session_dirty(watched):
    """D4: reading costs one statement, with the toolbar too."""
    browser = watched.visitor(n=[1, {'a': 2}])
    watched.visit(browser, read)
    assert watched.site.statements.verbs == ['SELECT']


def test_no_credential_is_shown(make_watched):
    """No token, secret or hash is on the toolbar's page about a request."""
    watched = make_watched(**{'debugtoolbar.panels': 'sqlasession'})
    browser = watched.visitor()
    tokens = [watched.site.token(browser)]
    pages = [toolbar_page(watched.site.app)]
    for act in (read, acts.rotate, acts.csrf, acts.logout_and_say_so):
        hashes = [row['secret_hash'].hex() for row in watched.site.rows()]
        watched.visit(browser, act)
        tokens.append(watched.site.token(browser))
        pages.append(toolbar_page(watched.site.app))
        hashes += [row['secret_hash'].hex() for row in watched.site.rows()]
        for page in pages:
            assert not any(token in page for token in tokens)
            assert not any(token[22:] in page for token in tokens)
            assert not any(digest in page for digest in hashes)


@pytest.fixture
def looked_at_above(make_watched):
    """A ``Watched`` with a tween above the toolbar: ``looking_tween``."""
    return make_watched(
        configure=lambda config: config.add_tween(
            'tests.test_debugtoolbar.looking_tween',
            over='pyramid_debugtoolbar.toolbar_tween_factory',
        ),
        # The stock panel of the session looks, too: it is left out.
        **{
            'debugtoolbar.panels':
            'pyramid_sqlasession.debugtoolbar.SQLASessionPanel',
        },
    )


def looking_tween(handler, registry):
    """Look at the session before anybody else, or only take it."""

    def tween(request):
        session = request.session
        if request.path != '/ignore':
            session.get('n')
        return handler(request)

    return tween


@on_sqlite
def test_a_tween_above_the_toolbar_has_looked(looked_at_above):
    """T10: the session of a tween above the toolbar is told all the same."""
    watched = looked_at_above
    browser = watched.visitor()
    panel = watched.visit(browser, acts.put(a=1))
    assert 'The session was loaded.' in panel
    assert 'keys set a' in panel


@on_sqlite
def test_what_a_tween_above_the_toolbar_has_found(looked_at_above):
    """T10: a cookie that leads to nothing is no missing one."""
    browser = looked_at_above.visitor()
    looked_at_above.site.execute('DELETE FROM sessions')
    panel = looked_at_above.visit(browser, read)
    assert 'has expired, was ended, or never was' in panel


@on_sqlite
def test_a_tween_above_the_toolbar_has_not_looked(looked_at_above):
    """T10: a session that somebody took, and nobody looked into."""
    panel = looked_at_above.visit(looked_at_above.visitor(), ignore)
    assert 'Nobody looked at the session' in panel


@on_sqlite
def test_the_toolbar_below_the_transaction(make_watched):
    """T10: with the toolbar below pyramid_tm the COMMIT is told too."""
    watched = make_watched(
        **{
            'pyramid.tweens': (
                'pyramid_tm.tm_tween_factory '
                'pyramid_debugtoolbar.toolbar_tween_factory '
                'pyramid.tweens.excview_tween_factory'
            )
        }
    )
    panel = watched.visit(watched.browser(), acts.put(a=1))
    assert 'committed A new session was inserted' in panel


def test_each_attempt_is_a_request_of_its_own(make_watched, stage):
    """C2: the attempt that met a conflict and the next one are both told."""
    # The headers' panel cannot show a request that was run again.
    watched = make_watched(
        conflict='retry', retry=True, **{'debugtoolbar.panels': 'sqlasession'}
    )
    browser = watched.visitor(n=0)
    stops = iter(['loaded'])

    def count(request):
        request.session['n'] += 1
        stage.reach(next(stops, None))

    def add(request):
        request.session['n'] += 1

    watched.site.view(count)
    watched.site.view(add)
    slow = stage.run(watched.browser(like=browser).get, '/count')
    stage.wait('loaded')
    watched.site.browser(like=browser).get('/add')
    stage.let('loaded')
    slow.result()
    assert watched.site.data() == {'n': 2}
    panels = [watched.panel(1), watched.panel(2), watched.panel(3)]
    assert any('changed the same keys (n)' in panel for panel in panels)
    assert any('committed The session was updated' in p for p in panels)


@on_sqlite
def test_the_stock_session_panel_beside_it(watched):
    """T10: both panels, active, leave a session as it is."""
    browser = watched.visitor(n=[1])
    browser.set_cookie('pdtb_active', 'session')
    panel = watched.visit(browser, read)
    assert 'The session was loaded.' in panel
    assert watched.site.statements.verbs == ['SELECT']
    assert watched.site.data() == {'n': [1]}


def test_an_application_without_the_package():
    """The toolbar of an application without our sessions works on."""
    config = Configurator(settings=INCLUDES)
    config.include('pyramid_debugtoolbar')
    config.add_route('any', '/')
    config.add_view(lambda request: Response('<p>hello'), route_name='any')
    app = config.make_wsgi_app()
    browser = TestApp(app, extra_environ={'REMOTE_ADDR': '127.0.0.1'})
    assert 'hello' in browser.get('/').text
    page = toolbar_page(app)
    assert f'class="disabled" id="{PANEL}"' in page
    assert f'id="{PANEL}-content"' not in page


@on_sqlite
def test_a_request_that_the_toolbar_is_not_for(watched):
    """A client the toolbar is not for leaves nothing behind."""
    browser = watched.site.browser(REMOTE_ADDR='192.0.2.1')
    watched.site.view(read)
    browser.get('/read')
    assert watched.site.registry.pdtb_history.last(1) == []
