"""What is stored and read when a view fails and another one answers (T3,
T4).
"""

import ast

from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionWriteDropped
from pyramid_sqlasession import SQLASession

from .failing import answering
from .failing import Failure
from .failing import give_up_early
from .failing import on_sqlite
from .shop import add_note
from .shop import both_managers
from .shop import change_as_asked
from .shop import CHANGES
from .shop import commit_fails
from .shop import first_vote_fails
from .shop import flash_error
from .shop import flush_fails_at_commit
from .shop import prepare_deferred
from .shop import returning
from .shop import start_over
from .shop import STORED
from .site import Note

# -- T3 -----------------------------------------------------------------------


@pytest.fixture
def accident(make_shop):
    """A function that makes a site with a view that raises after *work*."""

    def make(work=None, answer=flash_error, **settings):
        site = make_shop(
            configure=answering(answer), **settings
        )

        @site.view
        def fail(request):
            if work is not None:
                work(request)
            add_note(request)
            request.dbsession.flush()
            raise Failure

        return site

    return make


def flash_saved(request):
    """What must not show after an abort."""
    request.session.flash('Saved!')
    request.session['n'] = 2


LET_PASS = {'tm.commit_veto': lambda request, response: False}


@both_managers
@pytest.mark.parametrize('work', [None, flash_saved])
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_words_of_the_exception_view_only(accident, work, visitor):
    """T3: what the view put in is gone, the error page's flash is stored."""
    site = accident(work)
    browser = site.browser() if visitor == 'new' else returning(site)
    response = browser.get('/fail')
    assert site.notes() == []
    expected = {'_f_': ['Please log in']}
    if visitor == 'returning':
        expected |= {'n': 1, 'list': [1]}
    assert site.data() == expected
    assert ('Set-Cookie' in response.headers) == (visitor == 'new')
    assert 'Please log in' in browser.get('/show').text


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_both_words_if_the_transaction_commits(accident, visitor):
    """T3: a commit veto that lets an error pass stores all of it."""
    site = accident(flash_saved, **LET_PASS)
    browser = site.browser() if visitor == 'new' else returning(site)
    browser.get('/fail')
    assert site.notes() == ['a note']
    data = site.data()
    assert data.pop('_f_') == ['Saved!', 'Please log in']
    assert data['n'] == 2
    assert len(site.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('work', [
    None, lambda request: request.session.get_csrf_token(),
    lambda request: request.session.new_csrf_token(),
])
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_the_form_of_a_page_whose_transaction_commits(
    accident, visitor, work
):
    """C6, T3: the page that is sent has the CSRF token that is stored."""

    def page(request):
        return request.session.get_csrf_token()

    def change(request):
        request.session['n'] = 2
        if work is not None:
            work(request)

    site = accident(change, page, **LET_PASS)
    browser = site.browser() if visitor == 'new' else returning(site)
    token = browser.get('/fail').text
    assert site.data()['_csrft_'] == token


@on_sqlite
def test_the_token_of_a_view_whose_transaction_commits(accident):
    """C6, T3: it stays, if the page that is sent asks for none."""
    made = []

    def change(request):
        made.append(request.session.new_csrf_token())

    site = accident(change, flash_error, **LET_PASS)
    returning(site).get('/fail')
    assert [site.data()['_csrft_']] == made


@on_sqlite
@pytest.mark.parametrize('veto', [{}, LET_PASS])
@pytest.mark.parametrize('begin', [SQLASession.rotate, SQLASession.invalidate])
def test_an_exception_view_that_logs_in_with_an_old_token(
    accident, veto, begin
):
    """C5, T3: the login is stored, and what the view did is dropped."""

    def answer(request):
        begin(request.session)
        request.session['user'] = 2

    site = accident(flash_saved, answer, **veto)
    browser = returning(site)
    old = site.browser(like=browser)
    site.views['log_in'] = lambda request: request.session.rotate()
    browser.get('/log_in')
    assert 'Set-Cookie' in old.get('/fail').headers
    assert ast.literal_eval(old.get('/show').text) == {'user': 2}


@on_sqlite
def test_an_exception_view_that_does_not_look(accident):
    """T3: the changes of the view are gone all the same."""
    site = accident(flash_saved, lambda request: 'sorry')
    browser = returning(site)
    before = site.rows()
    response = browser.get('/fail')
    assert site.rows() == before
    assert 'Set-Cookie' not in response.headers


@on_sqlite
def test_an_exception_view_that_does_not_look_and_a_commit(accident):
    """T3: with the transaction the changes of the view are committed."""
    site = accident(flash_saved, lambda request: 'sorry', **LET_PASS)
    returning(site).get('/fail')
    assert site.data() == {'n': 2, 'list': [1], '_f_': ['Saved!']}
    assert site.notes() == ['a note']


@on_sqlite
def test_the_exception_view_sees_what_is_stored(accident):
    """T3: it does not show a flash of the view that failed."""
    site = accident(
        flash_saved,
        lambda request: f'{request.session.peek_flash()} '
                        f"{request.session.get('n')}",
    )
    assert returning(site).get('/fail').text == '[] 1'


@on_sqlite
def test_a_reference_of_the_view_is_not_the_exception_views(accident):
    """T3: a list changed in place by the view is not changed any more."""

    def work(request):
        request.session['list'].append('of the view')

    def answer(request):
        request.session['list'].append('of the error page')
        return request.session['list']

    site = accident(work, answer)
    response = returning(site).get('/fail')
    assert response.text == "[1, 'of the error page']"
    assert site.data()['list'] == [1, 'of the error page']


@pytest.mark.parametrize('work', [None, flash_saved])
def test_all_that_an_exception_view_can_do(accident, work):
    """T3: each kind of change is stored, and the cookie fits it."""
    expected = {
        'put': {'n': 2, 'list': [1]},
        'nested': {'n': 1, 'list': [1, 2]},
        'clear': {},
        'replace': {'n': 3},
    }

    def answer(request):
        CHANGES[request.params['change']](request.session)

    site = accident(work, answer)
    for change in ('put', 'nested', 'clear', 'rotate', 'expiry', 'touch',
                   'replace'):
        browser = start_over(site)
        token = site.token(browser)
        browser.get(f'/fail?change={change}')
        data = expected.get(change, STORED)
        assert (change, site.data()) == (change, data)
        is_new = change in ('rotate', 'replace')
        assert (site.token(browser) != token) == is_new
        assert browser.get('/show').text == str(data)


@pytest.mark.parametrize('work', [None, flash_saved])
def test_an_exception_view_that_ends_the_session(accident, work):
    """T3: the record is deleted although the transaction was aborted."""
    site = accident(work, lambda request: request.session.invalidate())
    browser = returning(site)
    browser.get('/fail')
    assert site.rows() == []
    assert site.token(browser) is None


def test_a_flash_after_whatever_the_view_did(accident):
    """T3: an abort takes all of the view back, the flash is added to it."""
    site = accident(change_as_asked)
    for change in CHANGES:
        browser = start_over(site)
        token = site.token(browser)
        browser.get(f'/fail?change={change}')
        assert site.data() == STORED | {'_f_': ['Please log in']}
        assert site.token(browser) == token


def test_a_flash_added_to_whatever_the_view_did(accident):
    """T3: with a commit the record has what both did."""
    site = accident(change_as_asked, **LET_PASS)
    kept = {'invalidate': None, 'clear': None, 'replace': 3, 'put': 2}
    for change in CHANGES:
        browser = start_over(site)
        browser.get(f'/fail?change={change}')
        data = site.data()
        assert data['_f_'][-1] == 'Please log in'
        assert (change, data.get('n')) == (change, kept.get(change, 1))
        assert 'Please log in' in browser.get('/show').text


@on_sqlite
def test_an_invalidating_exception_view_and_a_commit(accident):
    """T3: the error page ends the session, also what the view put in."""
    site = accident(
        flash_saved, lambda request: request.session.invalidate(), **LET_PASS
    )
    browser = returning(site)
    browser.get('/fail')
    assert site.rows() == []
    assert site.token(browser) is None


@on_sqlite
def test_an_exception_view_that_begins_a_session_and_a_commit(accident):
    """T3, C4: its own words are kept, in the next one, and no others."""

    def page(request):
        request.session.invalidate()
        request.session.flash('Good-bye')

    site = accident(flash_saved, page, **LET_PASS)
    browser = returning(site)
    (before,) = site.rows()
    browser.get('/fail')
    (row,) = site.rows()
    assert row['id'] != before['id']
    assert browser.get('/show').text == "{'_f_': ['Good-bye']}"


@on_sqlite
@pytest.mark.parametrize('page', [
    lambda request: 'sorry', lambda request: request.session.get('n'),
    flash_error,
])
def test_an_old_token_and_a_commit(accident, page):
    """C5, T3: that the words of the view are dropped is told, once."""
    site = accident(flash_saved, page, **LET_PASS)
    browser = returning(site)
    old = site.browser(like=browser)
    site.views['log_in'] = lambda request: request.session.rotate()
    browser.get('/log_in')
    with site.events(SessionWriteDropped) as dropped:
        old.get('/fail')
    assert [event.reason for event in dropped] == ['rotated']
    assert site.data() == STORED


@on_sqlite
def test_a_rotating_view_and_a_commit(accident):
    """T3: view and exception view both rotate; the cookie sent works."""
    site = accident(
        lambda request: request.session.rotate(),
        lambda request: request.session.rotate(), **LET_PASS,
    )
    browser = returning(site)
    browser.get('/fail')
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


def end_and_say_so(request):
    """A view's words after the end of the session."""
    request.session.invalidate()
    request.session.flash('Good-bye')
    request.session['view'] = 1


def add_to_list(request):
    """An exception view's note of where the visitor was."""
    request.session['list'].append('/fail')
    request.session['page'] = 1
    request.session.flash('Sorry')


@on_sqlite
@pytest.mark.parametrize('rotates', [False, True])
def test_a_view_that_ends_the_session_and_a_commit(accident, rotates):
    """C4, T3: nothing that the exception view has found is in the next one."""

    def page(request):
        add_to_list(request)
        if rotates:
            request.session.rotate()

    site = accident(end_and_say_so, page, **LET_PASS)
    browser = returning(site)
    (before,) = site.rows()
    browser.get('/fail')
    (row,) = site.rows()
    assert row['id'] != before['id']
    assert ast.literal_eval(browser.get('/show').text) == {
        'view': 1, 'page': 1, '_f_': ['Good-bye', 'Sorry'],
    }


@on_sqlite
@pytest.mark.parametrize('view', [
    end_and_say_so,
    lambda request: (
        request.session.pop_flash(), request.session.flash('Good-bye')
    ),
])
def test_a_message_of_the_view_and_a_commit(accident, view):
    """C6, T3: an exception view that pops takes none that it has not seen."""
    seen = []

    def page(request):
        seen.extend(request.session.pop_flash())

    site = accident(view, page, **LET_PASS)
    site.views['flash'] = lambda request: request.session.flash('Hello')
    browser = returning(site)
    browser.get('/flash')
    browser.get('/fail')
    assert seen == ['Hello']
    assert ast.literal_eval(browser.get('/show').text)['_f_'] == ['Good-bye']


@on_sqlite
@pytest.mark.parametrize('view', [
    lambda request: request.session.rotate(), end_and_say_so,
])
def test_a_csrf_token_of_before_the_login_and_a_commit(accident, view):
    """C5, T3: whoever has planted the cookie knows it; it is not kept."""
    derived = []

    def page(request):
        derived.append(request.session.get_csrf_token())

    site = accident(view, page, **LET_PASS)
    site.views['csrf'] = lambda request: request.session.get_csrf_token()
    browser = returning(site)
    browser.get('/fail')
    assert browser.get('/csrf').text not in derived


@on_sqlite
@pytest.mark.parametrize('rotates', [False, True])
def test_a_csrf_token_of_a_new_session_and_a_commit(accident, rotates):
    """C6, T3: it stays, unless the exception view has the session rotated."""
    made = []

    def view(request):
        end_and_say_so(request)
        made.append(request.session.get_csrf_token())

    def page(request):
        assert 'view' not in request.session
        if rotates:
            request.session.rotate(login=True)

    site = accident(view, page, **LET_PASS)
    site.views['csrf'] = lambda request: request.session.get_csrf_token()
    browser = returning(site)
    browser.get('/fail')
    assert (browser.get('/csrf').text in made) == (not rotates)


#: What can be asked for beside data, and what its row is like afterwards.
ASKED = {
    'rotate': (
        lambda session: session.rotate(),
        lambda before, after: after['secret_hash'] != before['secret_hash'],
    ),
    'log in': (
        lambda session: session.rotate(login=True),
        lambda before, after: after['started'] > before['started'],
    ),
    'set the expiry': (
        lambda session: session.set_expiry(7200),
        lambda before, after: after['lifetime'] == 7200,
    ),
    'touch': (
        lambda session: session.touch(),
        lambda before, after: after['accessed'] > before['accessed'],
    ),
}


@on_sqlite
@pytest.mark.parametrize('by_view', ASKED)
@pytest.mark.parametrize('by_page', ASKED)
def test_what_both_ask_for_and_a_commit(accident, by_view, by_page):
    """T3, C5, E2: token, login, expiry and touch count, whoever asked."""
    site = accident(
        lambda request: ASKED[by_view][0](request.session),
        lambda request: ASKED[by_page][0](request.session), **LET_PASS,
    )
    browser = returning(site)
    (before,) = site.rows()
    site.clock.advance(seconds=10)
    browser.get('/fail')
    (after,) = site.rows()
    assert ASKED[by_view][1](before, after)
    assert ASKED[by_page][1](before, after)
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


@on_sqlite
def test_an_end_and_an_expiry_and_a_commit(accident):
    """T3: the view's logout holds, the page's expiry is the new session's."""

    def answer(request):
        flash_error(request)
        request.session.set_expiry(7200)

    site = accident(lambda request: request.session.invalidate(), answer,
                    **LET_PASS)
    browser = returning(site)
    (before,) = site.rows()
    browser.get('/fail')
    (after,) = site.rows()
    assert after['id'] != before['id']
    assert after['lifetime'] == 7200
    assert browser.get('/show').text == "{'_f_': ['Please log in']}"


@on_sqlite
def test_an_exception_view_that_pops_what_the_view_flashed(accident):
    """T3, C6: it sees old messages only; that of the view is not lost."""
    site = accident(
        lambda request: request.session.flash('Saved!'),
        lambda request: request.session.pop_flash(), **LET_PASS,
    )

    @site.view
    def flash(request):
        request.session.flash('old')

    browser = returning(site)
    browser.get('/flash')
    assert browser.get('/fail').text == "['old']"
    assert site.data()['_f_'] == ['Saved!']


@on_sqlite
def test_an_exception_view_that_deletes_and_a_commit(accident):
    """T3: what it deletes goes, with what the view put in elsewhere."""
    site = accident(
        lambda request: request.session.update(x=1),
        lambda request: request.session.pop('list'), **LET_PASS,
    )
    browser = returning(site)
    browser.get('/fail')
    assert site.data() == {'n': 1, 'x': 1}


@on_sqlite
def test_what_is_said_once_in_an_exception_view_and_a_commit(accident):
    """T3, C6: also if another request says it meanwhile."""

    def answer(request):
        request.session.flash('same', allow_duplicate=False)
        site.browser(like=browser).get('/flash')

    site = accident(answer=answer, **LET_PASS)

    @site.view
    def fail(request):
        request.session['x'] = 1
        raise Failure

    @site.view
    def flash(request):
        request.session.flash('same')

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == {
        'n': 1, 'list': [1], 'x': 1, '_f_': ['same']
    }


@on_sqlite
def test_raise_found_and_the_default_veto(make_shop):
    """T3: ``raise HTTPFound`` commits with it, and loses all without."""

    def build(**settings):
        site = make_shop(**settings)

        @site.view
        def leave(request):
            flash_saved(request)
            add_note(request)
            raise HTTPFound('/show')

        returning(site).get('/leave')
        return site

    site = build(**{'tm.commit_veto': 'pyramid_tm.default_commit_veto'})
    assert site.data()['_f_'] == ['Saved!']
    assert site.notes() == ['a note']
    site.execute('DELETE FROM notes')
    site.execute('DELETE FROM sessions')
    site = build()
    assert site.data() == {'n': 1, 'list': [1]}
    assert site.notes() == []


@both_managers
@pytest.mark.parametrize('work', [
    None, lambda session: session.get('n'),
    lambda session: session.flash('Saved!'),
], ids=['nothing', 'a look', 'a flash'])
@pytest.mark.parametrize('end', ['failure', 'vote', 'doom', 'abort'])
def test_sessions_that_a_view_has_ended_in_vain(make_shop, work, end):
    """T2, T3: they live on; the browser keeps its own, and its cookie."""
    site = make_shop(configure=answering(flash_error))

    @site.view
    def fail(request):
        request.session_store.revoke_all()
        if work is not None:
            work(request.session)
        if end == 'failure':
            raise Failure
        if end == 'vote':
            first_vote_fails(request, site)
        if end == 'doom':
            request.tm.doom()
            request.add_response_callback(
                lambda request, response: flash_error(request)
            )
        if end == 'abort':
            request.tm.abort()
            request.tm.begin()
            flash_error(request)

    browser = returning(site)
    assert 'Set-Cookie' not in browser.get('/fail').headers
    assert site.data() == {**STORED, '_f_': ['Please log in']}
    assert site.engine.pool.checkedout() == 0


@both_managers
def test_sessions_that_a_view_has_ended_and_a_commit(accident):
    """T3: those of a view that failed, too; what is said begins another."""
    site = accident(
        lambda request: request.session_store.revoke_all(), **LET_PASS
    )
    browser = returning(site)
    browser.get('/fail')
    assert browser.get('/show').text == "{'_f_': ['Please log in']}"
    assert len(site.rows()) == 1


@on_sqlite
def test_an_exception_view_that_raises(accident):
    """T2, T3: nobody answers, nothing is stored."""

    def answer(request):
        flash_error(request)
        raise ZeroDivisionError

    site = accident(flash_saved, answer)
    browser = returning(site)
    before = site.rows()
    with pytest.raises(ZeroDivisionError):
        browser.get('/fail')
    assert site.rows() == before
    assert site.notes() == []


@on_sqlite
@pytest.mark.parametrize('settings', [{}, LET_PASS])
def test_an_exception_view_for_the_error_of_an_exception_view(
    make_shop, settings
):
    """T3: the second error page is the one that speaks."""

    def first(request):
        request.session.flash('first page')
        raise ZeroDivisionError

    def configure(config):
        answering(first)(config)
        answering(
            lambda request: request.session.flash('second page'),
            ZeroDivisionError,
        )(config)
        config.add_tween(
            f'{__name__}.second_excview', over=EXCVIEW,
            under='pyramid_tm.tm_tween_factory',
        )

    site = make_shop(configure=configure, **settings)

    @site.view
    def fail(request):
        flash_saved(request)
        raise Failure

    returning(site).get('/fail')
    messages = site.data()['_f_']
    if settings:
        assert messages[0] == 'Saved!'
    assert messages[-1] == 'second page'
    assert ('Saved!' in messages) == bool(settings)


def second_excview(handler, registry):
    """Answer what the exception view itself raises."""

    def tween(request):
        try:
            return handler(request)
        except ZeroDivisionError:
            return request.invoke_exception_view()

    return tween


@on_sqlite
def test_an_exception_view_called_by_the_view(accident):
    """T3: ``invoke_exception_view`` in a view aborts, its flash stays."""
    site = accident()

    @site.view
    def careful(request):
        flash_saved(request)
        add_note(request)
        try:
            raise Failure
        except Failure:
            return request.invoke_exception_view()

    returning(site).get('/careful')
    assert site.notes() == []
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}


@on_sqlite
def test_an_exception_that_the_view_handles(accident):
    """T3: an error without an exception view is no affair of the session."""
    site = accident()

    @site.view
    def careful(request):
        flash_saved(request)
        try:
            raise Failure
        except Failure:
            request.session.flash('but')

    returning(site).get('/careful')
    assert site.data()['_f_'] == ['Saved!', 'but']


@on_sqlite
def test_a_not_found_view_that_flashes(make_shop):
    """T3: a URL that leads nowhere is an exception view too."""

    def configure(config):
        config.add_notfound_view(
            lambda request: request.session.flash('nowhere')
            or Response(status=404)
        )

    site = make_shop(configure=configure)
    returning(site).get('/no/such/page', status=404)
    assert site.data()['_f_'] == ['nowhere']


@pytest.mark.parametrize(
    'ending', [flush_fails_at_commit, first_vote_fails, commit_fails]
)
def test_an_exception_view_for_a_failing_commit(make_shop, ending):
    """T2, T3: pyramid_tm shows the error page after the abort."""
    site = make_shop(configure=answering(flash_error, Exception))
    prepare_deferred(site)

    @site.view
    def fail(request):
        flash_saved(request)
        add_note(request, 'of the view')
        ending(request, site)

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}
    assert site.notes() == []
    stranger = site.browser()
    response = stranger.get('/fail')
    assert 'Set-Cookie' in response.headers
    assert stranger.get('/show').text == "{'_f_': ['Please log in']}"


@on_sqlite
def test_a_doomed_transaction_whose_view_raised(accident):
    """T3: doomed or not, the error page's changes are stored."""
    site = accident(
        lambda request: (flash_saved(request), request.tm.doom()), **LET_PASS
    )
    returning(site).get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['Please log in']}
    assert site.notes() == []


@both_managers
def test_the_exception_view_aborts_by_hand(accident):
    """T2: what it put in before is gone, what comes after is stored."""

    def answer(request):
        request.session.flash('before')
        request.tm.abort()
        request.tm.begin()
        request.session.flash('after')

    site = accident(flash_saved, answer)
    returning(site).get('/fail')
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['after']}


@on_sqlite
def test_the_error_pages_fields_are_in_step(make_shop):
    """T3, D3: the additional field is written with the exception view."""
    site = make_shop(
        additional_fields='user_id: Integer',
        configure=answering(
            lambda request: request.session.update(user_id=7)
        ),
    )

    @site.view
    def fail(request):
        request.session['user_id'] = 8
        raise Failure

    returning(site).get('/fail')
    assert site.rows()[0]['user_id'] == 7


def test_the_error_page_of_a_slow_request_merges(accident, stage):
    """T3, C1: another request's change meanwhile is kept."""
    site = accident(lambda request: (
        len(request.session), stage.reach('in the view'),
    ))

    @site.view
    def put(request):
        request.session['m'] = 2

    one = returning(site)
    two = site.browser(like=one)
    slow = stage.run(one.get, '/fail')
    stage.wait('in the view')
    two.get('/put')
    stage.let('in the view')
    slow.result()
    assert site.data() == {
        'n': 1, 'list': [1], 'm': 2, '_f_': ['Please log in'],
    }


@pytest.fixture
def make_met(make_shop, caplog):
    """A function that makes a site, with ``conflict = retry``, whose error
    page does *work* while another request puts n=7; it returns the response,
    what is stored then, and the errors in the log.
    """

    def meet(work, **settings):
        def page(request):
            work(request.session)
            two.get('/put')

        site = make_shop(
            configure=answering(page), conflict='retry', retry=True,
            additional_fields='n: Integer', **settings,
        )
        @site.view
        def fail(request):
            # Without a row: SQLite would let no other request write.
            raise Failure

        @site.view
        def put(request):
            request.session['n'] = 7

        one = returning(site)
        two = site.browser(like=one)
        response = one.get('/fail')
        assert site.rows()[0]['n'] == 7
        return response, site.data(), [
            record.getMessage() for record in caplog.records
            if record.levelname == 'ERROR'
        ]

    return meet


@pytest.mark.parametrize('settings', [
    {}, {'extend_default_fields': lambda defaults, *_: defaults},
], ids=['plain', 'extended'])
@pytest.mark.parametrize('change', [
    lambda session: session.update(n=session['n'] + 1),
    lambda session: session.pop('n'),
], ids=['a value', 'a deletion'])
def test_the_error_page_meets_a_conflict(make_met, settings, change):
    """T3, C2, C6: what merges is stored, and nobody's value is lost."""

    def work(session):
        change(session)
        session['m'] = 2
        session.flash('Please log in')

    _, data, errors = make_met(work, **settings)
    assert data == {'n': 7, 'list': [1], 'm': 2, '_f_': ['Please log in']}
    (error,) = errors
    assert 'keys of the session (n) that another request' in error


@on_sqlite
def test_the_error_page_sets_an_expiry_and_meets_a_conflict(make_met):
    """T3, C2: that is none, and the cookie lives as long."""

    def work(session):
        session['n'] += 1
        session.set_expiry(604_800)

    response, _, errors = make_met(work)
    assert '; Max-Age=604800;' in response.headers['Set-Cookie']
    assert len(errors) == 1


@on_sqlite
@pytest.mark.parametrize('work', [
    lambda session: session.update(n=2),
    lambda session: session.pop('n'),
    lambda session: (
        session.rotate(), session.update(n=2), session.flash('Welcome')
    ),
    lambda session: (session.update(n=2, m=2), session.flash('Welcome')),
], ids=['nothing else', 'a deletion', 'rotate', 'a login without rotate'])
def test_the_error_page_meets_a_conflict_and_nothing_is_stored(
    make_met, work
):
    """T3, C2: nothing else is there, or it would be half of a login."""
    response, data, errors = make_met(work, user_field='n')
    assert 'Set-Cookie' not in response.headers
    assert data == STORED | {'n': 7}
    assert errors == ['the session could not be saved']


@on_sqlite
def test_the_error_page_waits_for_a_lock_in_vain(make_shop, caplog):
    """T3: the page is sent, and the log says why nothing was stored."""
    site = make_shop(configure=answering(flash_error))
    give_up_early(site.engine)

    @site.view
    def fail(request):
        raise Failure

    browser = returning(site)
    with site.outside.begin() as connection:
        connection.execute(sa.text('UPDATE sessions SET version = version'))
        # It is said once in a minute.
        for _ in range(2):
            assert browser.get('/fail').text == ''
    (said,) = [r for r in caplog.records if r.levelname == 'ERROR']
    assert said.getMessage() == (
        'the session could not be saved: it has waited for a lock in vain'
    )
    assert said.exc_info is None
    assert site.data() == STORED


# -- T4 -----------------------------------------------------------------------


def break_by_flush(request):
    """The ORM refuses all but a rollback."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])
    request.dbsession.flush()


def break_by_statement(request):
    """PostgreSQL refuses all but a ROLLBACK."""
    request.dbsession.execute(sa.text('SELECT no_such_column FROM notes'))


def break_connection(request):
    """The database ends the connection."""
    dbsession = request.dbsession
    name = dbsession.get_bind().dialect.name
    if name == 'sqlite':
        dbsession.connection().connection.dbapi_connection.close()
        dbsession.execute(sa.text('SELECT 1'))
    elif name == 'postgresql':
        dbsession.execute(
            sa.text('SELECT pg_terminate_backend(pg_backend_pid())')
        )
    else:
        number = dbsession.scalar(sa.text('SELECT CONNECTION_ID()'))
        dbsession.execute(sa.text(f'KILL {number}'))


@pytest.mark.parametrize('look', ['before', 'only after'])
@pytest.mark.parametrize(
    'break_it', [break_by_flush, break_by_statement, break_connection]
)
def test_the_session_in_spite_of_a_broken_transaction(
    make_shop, break_it, look
):
    """T4: the exception view reads, and writes, although nothing works."""

    def answer(request):
        request.session.flash('sorry')
        return request.session['n']

    site = make_shop(
        configure=answering(answer, (sa.exc.SQLAlchemyError))
    )

    @site.view
    def fail(request):
        add_note(request)
        request.dbsession.flush()
        if look == 'before':
            request.session['n'] = 2
        break_it(request)

    browser = returning(site)
    response = browser.get('/fail')
    assert response.text == '1'
    assert site.data() == {'n': 1, 'list': [1], '_f_': ['sorry']}
    assert site.notes() == []


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
def test_a_view_cannot_read_in_a_broken_transaction(shop):
    """T4: only an exception view is helped; a view gets the error."""

    @shop.view
    def fail(request):
        try:
            break_by_statement(request)
        except sa.exc.ProgrammingError:
            return request.session['n']

    with pytest.raises(sa.exc.InternalError, match='aborted'):
        returning(shop).get('/fail')
