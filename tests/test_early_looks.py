"""Sessions that somebody looks into before the transaction begins (T10)."""

from pyramid.response import Response
from pyramid.tweens import EXCVIEW
import pytest
import sqlalchemy as sa

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .shop import STORED
from .shop import with_views
from .site import Note
from .unmanaged import both_managers
from .unmanaged import errors
from .unmanaged import returning

# The thread's manager is the next test's too.
pytestmark = pytest.mark.usefixtures('clean_thread')


class SessionPolicy:
    """A security policy that has the user in the session."""

    def identity(self, request):
        return request.session.get('user')

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        return self.identity(request) is not None


@both_managers
@pytest.mark.parametrize('annotate', ['true', 'false'])
def test_a_policy_that_reads_the_session(make_site, annotate, manager):
    """T10: pyramid_tm asks for the user before the view; all is kept."""
    users = []
    site = with_views(make_site(
        **{'tm.annotate_user': annotate, 'tm.manager_hook': manager},
        configure=lambda config: config.set_security_policy(SessionPolicy()),
    ))

    @site.view
    def login(request):
        users.append(request.authenticated_userid)
        request.session.rotate()
        request.session['user'] = 'ann'
        request.dbsession.add(Note(text='a note'))

    @site.view
    def work(request):
        users.append(request.authenticated_userid)
        request.session['view'] = True

    browser = site.browser()
    browser.get('/login')
    site.listen()
    browser.get('/work')
    assert users == [None, 'ann']
    assert site.data() == {'user': 'ann', 'view': True}
    assert site.notes() == ['a note']
    assert site.statements.verbs == ['SELECT', 'UPDATE']


def test_a_policy_that_loads_the_user_from_the_database(make_site):
    """T10, T1: with rows read first the session is still written."""

    class RowPolicy(SessionPolicy):
        def identity(self, request):
            number = request.session.get('user')
            if number is None:
                return None
            return request.dbsession.get(Note, number)

        def authenticated_userid(self, request):
            row = self.identity(request)
            return None if row is None else row.text

    site = with_views(make_site(
        configure=lambda config: config.set_security_policy(RowPolicy()),
    ))
    site.execute("INSERT INTO notes (id, text) VALUES (1, 'ann')")

    @site.view
    def login(request):
        request.session['user'] = 1

    @site.view
    def work(request):
        request.session['view'] = True
        return request.authenticated_userid

    browser = site.browser()
    browser.get('/login')
    assert browser.get('/work').text == 'ann'
    assert site.data() == {'user': 1, 'view': True}


TWEENS = 'pyramid_tm.tm_tween_factory pyramid.tweens.excview_tween_factory'


@on_sqlite
def test_an_explicit_list_of_tweens(make_site):
    """T10: the package works with the tweens of an ini file."""
    site = with_views(make_site(
        **{'pyramid.tweens': TWEENS},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))

    @site.view
    def fail(request):
        request.session.flash('Saved!')
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'_f_': ['Please log in']}


@on_sqlite
def test_a_list_without_pyramid_tm(make_site):
    """T10, T8: no transaction at all, and still sessions."""
    site = with_views(make_site(**{'pyramid.tweens': EXCVIEW}))
    browser = returning(site)
    assert browser.get('/show').text == str(STORED)


def test_a_list_with_pyramid_tm_below_the_exception_views(make_site):
    """T10, T3: the error page runs after the abort; its words count."""
    site = with_views(make_site(
        **{'pyramid.tweens': ' '.join(TWEENS.split()[::-1])},
        configure=answering(
            lambda request: request.session.flash('Please log in')
        ),
    ))

    @site.view
    def fail(request):
        request.session['n'] = 2
        request.dbsession.add(Note(text='a note'))
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'_f_': ['Please log in']}
    assert site.notes() == []


@pytest.fixture
def with_toolbar(make_site):
    """A function that makes a site with the debug toolbar."""

    def make(**settings):
        site = with_views(make_site(
            configure=lambda config: config.include('pyramid_debugtoolbar'),
            **settings,
        ))

        @site.view
        def work(request):
            request.session['n'] = request.session.get('n', 0) + 1
            request.session.setdefault('list', []).append(2)
            request.dbsession.scalars(sa.select(Note)).all()
            if 'fail' in request.params:
                raise ZeroDivisionError
            return Response('<html><body>page</body></html>')

        return site

    return make


@both_managers
@pytest.mark.parametrize('active', ['session', ''])
def test_the_toolbars_session_panel(with_toolbar, active, manager, caplog):
    """T10: it reads before and after the transaction; the view's is kept."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': active,
        'tm.manager_hook': manager,
        'debugtoolbar.hosts': '127.0.0.1',
    })
    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    page = browser.get('/work')
    assert 'pDebug' in page.text
    assert site.data() == {'n': 1, 'list': [2]}
    site.listen()
    browser.get('/work')
    assert site.data() == {'n': 2, 'list': [2, 2]}
    assert [verb for verb in site.statements.verbs if verb != 'SELECT'] == [
        'UPDATE'
    ]
    assert errors(caplog) == []


@on_sqlite
@pytest.mark.parametrize('active', ['session', ''])
def test_the_toolbar_and_a_request_that_does_not_look(with_toolbar, active):
    """T10: the panel's look changes nothing."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': active,
        'debugtoolbar.hosts': '127.0.0.1',
    })

    @site.view
    def nothing(request):
        return Response('<html><body>page</body></html>')

    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    browser.get('/nothing')
    assert site.rows() == []
    assert site.token(browser) is None


@on_sqlite
def test_the_panel_and_a_view_that_fails(with_toolbar):
    """T10, T2: with the panel active nothing of a failed view is stored."""
    site = with_toolbar(**{
        'debugtoolbar.active_panels': 'session',
        'debugtoolbar.hosts': '127.0.0.1',
        'debugtoolbar.intercept_exc': 'false',
    })
    browser = site.browser(REMOTE_ADDR='127.0.0.1')
    browser.get('/work')
    with pytest.raises(ZeroDivisionError):
        browser.get('/work?fail=1')
    assert site.data() == {'n': 1, 'list': [2]}
