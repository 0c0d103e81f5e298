"""Applications that are mounted in another one, and subrequests whose view
commits by hand (R4).
"""

import ast
from functools import partial

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.wsgi import wsgiapp2
import pytest
from webtest import TestApp

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SuspiciousCookie

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .failing import Passing
from .shop import both_managers
from .shop import flash_error
from .shop import MANAGERS
from .shop import returning
from .shop import STORED
from .shop import with_views
from .subrequests import with_environ


def mounting(view):
    """Return what makes *view* the one of all below ``/mounted/``."""
    def configure(config):
        config.add_route('mounted', '/mounted/*subpath')
        config.add_view(view, route_name='mounted')

    return configure


@pytest.fixture
def make_inner(make_site, tmp_path):
    """A function that makes the application to be mounted: it has a database
    and a cookie of its own.
    """
    return partial(
        make_site, cookie_name='inner', with_dbsession=False,
        url=f'sqlite:///{tmp_path}/inner.sqlite',
    )


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_the_cookie_of_a_mounted_application(
    make_site, make_inner, manager, visitor
):
    """R4: an application within another one sends its cookie, too."""
    inner = make_inner(**{'tm.manager_hook': manager})

    def add(request):
        n = request.session['n'] = request.session.get('n', 0) + 1
        return n

    def mounted(context, request):
        if visitor == 'new':
            add(request)
        assert request.session['n'] > 0
        return wsgiapp2(inner.app)(context, request)

    outer = make_site(
        configure=mounting(mounted), **{'tm.manager_hook': manager}
    )
    outer.view(add)
    inner.view(add)
    browser = outer.browser()
    if visitor == 'returning':
        browser.get('/add')
    assert browser.get('/mounted/add').text == '1'
    assert set(browser.cookies) == {'inner', 'session'}
    assert browser.get('/mounted/add').text == '2'


@on_sqlite
@pytest.mark.parametrize('use_tweens', [True, False])
def test_a_new_visitor_of_two_applications(make_site, make_inner, use_tweens):
    """T9: a subrequest to another application begins a session of that."""
    other = with_views(make_inner())
    site = with_views(make_site())

    @site.view
    def outer(request):
        request.session['outer'] = True
        answer = other.app.invoke_subrequest(
            Request.blank('/fill'), use_tweens=use_tweens
        )
        return answer.headers['Set-Cookie']

    browser = site.browser()
    assert browser.get('/outer').text.startswith('inner=')
    assert browser.get('/show').text == "{'outer': True}"


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
def test_an_application_mounted_in_one_without_transactions(
    make_site, manager
):
    """R4, T2: it works there as it does alone; no pyramid_tm is outside."""
    inner = with_views(make_site(
        configure=answering(flash_error), **{'tm.manager_hook': manager}
    ))

    @inner.view
    def fail(request):
        request.session['n'] = 2
        raise Failure

    config = Configurator()
    mounting(wsgiapp2(inner.app))(config)
    browser = TestApp(config.make_wsgi_app())
    browser.get('/mounted/fill')
    browser.get('/mounted/fail')
    assert set(browser.cookies) == {'session'}
    assert inner.data() == STORED | {'_f_': ['Please log in']}


@on_sqlite
def test_a_mounted_application_in_a_request_that_runs_again(
    make_site, make_inner
):
    """R4, T5: what an attempt left is the outer application's alone."""
    inner = make_inner()

    def mounted(context, request):
        if request.environ['retry.attempt'] == 0:
            request.session['n'] = 1
            request.tm.commit()
            request.tm.begin()
            raise Passing
        response = wsgiapp2(inner.app)(context, request)
        response.text = repr(dict(request.session))
        return response

    outer = make_site(configure=mounting(mounted), retry=True)
    inner.views['look'] = lambda request: request.session.update(m=1)
    browser = outer.browser()
    assert browser.get('/mounted/look').text == "{'n': 1}"
    assert set(browser.cookies) == {'inner', 'session'}
    assert browser.cookies['inner'] != browser.cookies['session']
    assert outer.data() == {'n': 1}


@on_sqlite
def test_suspicious_cookies_of_a_mounted_application(make_site, make_inner):
    """R3: each application hears of the one that is meant for it."""
    inner = make_inner(secret='i' * 32)

    def mounted(context, request):
        assert not request.session
        return wsgiapp2(inner.app)(context, request)

    outer = make_site(configure=mounting(mounted), secret='o' * 32)
    inner.views['look'] = lambda request: dict(request.session)
    forged = 'A' * 64
    with (
        outer.events(SuspiciousCookie) as heard_outside,
        inner.events(SuspiciousCookie) as heard_inside,
    ):
        outer.browser().get(
            '/mounted/look',
            headers={'Cookie': f'session={forged}; inner={forged}'},
        )
    for heard in (heard_outside, heard_inside):
        assert [event.reason for event in heard] == ['signature']


@on_sqlite
def test_a_mounted_application_that_is_committed_by_hand_and_a_retry(
    make_site, make_inner
):
    """R4, T5: its next attempt goes on from there, and sends the cookie."""
    inner = make_inner()

    def mounted(context, request):
        response = wsgiapp2(inner.app)(context, request)
        if request.environ['retry.attempt'] == 0:
            request.tm.commit()
            request.tm.begin()
            raise Passing
        return response

    outer = make_site(configure=mounting(mounted), retry=True)

    @inner.view
    def add(request):
        n = request.session['n'] = request.session.get('n', 0) + 1
        return n

    browser = outer.browser()
    with inner.events(SessionCreated) as created:
        assert browser.get('/mounted/add').text == '2'
    assert len(created) == 1
    assert set(browser.cookies) == {'inner'}
    assert browser.get('/mounted/add').text == '4'


@on_sqlite
@pytest.mark.parametrize('how', ['create', 'rotate'])
def test_a_subrequest_that_commits_by_hand_and_goes_on(make_site, how):
    """T9, R4: the browser hears of the token that was committed first."""
    site = with_views(make_site())

    @site.view
    def inner(request):
        if how == 'rotate':
            request.session.rotate()
        request.session['inner'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session['more'] = 1

    @site.view
    def work(request):
        request.invoke_subrequest(with_environ(request, '/inner'))

    browser = site.browser() if how == 'create' else returning(site)
    browser.get('/work')
    assert "'inner': 1, 'more': 1" in browser.get('/show').text


@both_managers
def test_the_response_of_a_subrequest_of_a_new_visitor(shop):
    """R4, T9: returned by the outer view it has one cookie, the outer's."""

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['outer'] = True
        return request.invoke_subrequest(
            Request.blank('/inner'), use_tweens='tweens' in request.params
        )

    for query in ('?tweens=1', ''):
        browser = shop.browser()
        assert len(
            browser.get(f'/outer{query}').headers.getall('Set-Cookie')
        ) == 1
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == {'inner': True, 'outer': True}
