"""A new visitor, whose session begins in a view and its subrequests (T9)."""

import ast

from pyramid.request import Request
from pyramid.scripting import prepare
import pytest

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionWriteDropped

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .failing import Passing
from .shop import both_managers
from .shop import flash_error
from .shop import MANAGERS
from .shop import returning
from .shop import start_over
from .shop import STORED
from .shop import with_views
from .subrequests import anyway
from .subrequests import beside
from .subrequests import call_back
from .subrequests import commit_by_hand
from .subrequests import each_way
from .subrequests import errors
from .subrequests import IN_TRANSACTION
from .subrequests import inner
from .subrequests import log_in
from .subrequests import newcomers
from .subrequests import run
from .subrequests import WAYS
from .subrequests import with_cookie
from .subrequests import with_environ
from .subrequests import with_session
from .subrequests import with_transaction

#: What a view has done to the session before its subrequest.
LOOKS = {
    'nothing': lambda session: None,
    'a look': lambda session: dict(session),
    'a change': lambda session: session.update(before=True),
    'a logout': lambda session: session.invalidate(),
}


@pytest.fixture
def apart(shop):
    """A function that has two new visitors come, and checks that neither has
    anything of the other's.
    """

    @shop.view
    def one(request):
        request.session['one'] = 1
        request.session.get_csrf_token()

    @shop.view
    def two(request):
        request.session.rotate()
        request.session['two'] = 2
        request.session.get_csrf_token()

    def check():
        browsers = {'one': shop.browser(), 'two': shop.browser()}
        for name in ('one', 'two', 'one'):
            browsers[name].get(f'/{name}')
        tokens = set()
        for name, browser in browsers.items():
            shown = ast.literal_eval(browser.get('/show').text)
            tokens.add(shown.pop('_csrft_'))
            assert list(shown) == [name]
        assert (len(tokens), len(shop.rows())) == (2, 2)

    return check


@both_managers
def test_new_visitors_above_a_request_of_a_script(shop, apart):
    """C1, C5: what ``bootstrap()`` has left open is none that they come by."""
    with prepare(registry=shop.registry) as script:
        apart()
        assert script['request'].session.get('one') is None
        shop.execute('DELETE FROM sessions')
        apart()


@pytest.mark.parametrize(
    ('database', 'make_shop'), [('sqlite', 'explicit')], indirect=True
)
@pytest.mark.parametrize('looks', [False, True])
def test_new_visitors_that_a_view_calls_the_application_for(
    shop, apart, looks
):
    """C1, C5: nor is its request theirs; it asks as browsers would."""

    @shop.view
    def outer(request):
        if looks:
            assert 'one' not in request.session
        apart()

    shop.browser().get('/outer')


@both_managers
def test_new_visitors_whom_a_script_serves(shop):
    """C1, T9: nor are the subrequests of a script those of one visitor."""
    shop.view(inner)
    with prepare(registry=shop.registry) as script:
        script['request'].session.get('inner')
        for _ in range(2):
            shop.app.invoke_subrequest(
                Request.blank('/inner'), use_tweens=True
            )
    assert len(shop.rows()) == 2


@both_managers
@pytest.mark.parametrize('before', LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize('after', [False, True])
def test_outer_and_inner_request_of_a_new_visitor(
    shop, before, after, caplog
):
    """T9: what both put in begins one session, of which he has the cookie."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.flash('inner')

    @shop.view
    def outer(request):
        before(request.session)
        anyway(request, '/inner')
        if after:
            request.session['after'] = True
            request.session.flash('outer')

    expected = {'inner': True}
    if before is LOOKS['a change']:
        expected['before'] = True
    if after:
        expected['after'] = True
    with shop.events(SessionCreated, SessionRotated) as seen:
        for browser in newcomers(shop):
            seen.clear()
            browser.get('/outer')
            shown = ast.literal_eval(browser.get('/show').text)
            flashed = shown.pop('_f_')
            assert (shop.registry.way, shown) == (shop.registry.way, expected)
            assert sorted(flashed) == ['inner', 'outer'][:1 + after]
            assert [type(event) for event in seen] == [SessionCreated]
            assert len(shop.rows()) == 1
    assert errors(caplog) == []


@both_managers
@pytest.mark.parametrize('first', ['outer', 'inner'])
@pytest.mark.parametrize('before', ['nothing', 'a look', 'a change'])
def test_the_csrf_token_of_a_new_visitor(shop, before, first):
    """T9, C6: a form of the outer view and one of a box have the same."""
    tokens = {}

    @shop.view
    def inner(request):
        tokens['inner'] = request.session.get_csrf_token()

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        if first == 'outer':
            tokens['outer'] = request.session.get_csrf_token()
        anyway(request, '/inner')
        if first == 'inner':
            tokens['outer'] = request.session.get_csrf_token()

    @shop.view
    def ask(request):
        return request.session.get_csrf_token()

    for browser in newcomers(shop):
        browser.get('/outer')
        stored = browser.get('/ask').text
        assert (shop.registry.way, tokens) == (
            shop.registry.way, {'outer': stored, 'inner': stored}
        )


@both_managers
def test_boxes_of_a_page_of_a_new_visitor(shop):
    """T9: those of two subrequests side by side, and one in the other."""

    @shop.view
    def second(request):
        request.session['second'] = True

    @shop.view
    def first(request):
        request.session['first'] = True
        anyway(request, '/second')

    @shop.view
    def third(request):
        request.session['third'] = True

    @shop.view
    def outer(request):
        anyway(request, '/first')
        anyway(request, '/third')

    for browser in newcomers(shop):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, sorted(shown)) == (
            shop.registry.way, ['first', 'second', 'third']
        )
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('before', ['a look', 'a change'])
def test_a_new_visitor_whom_a_subrequest_logs_in(shop, before, caplog):
    """T9, C5: what the outer view does beside a login is dropped."""
    # As it is of a visitor who has a session; nothing in one transaction.
    tokens = []

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session['user_id'] = 7
        tokens.append(request.session.get_csrf_token())

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        request.session.get_csrf_token()
        anyway(request, '/inner')
        request.session['after'] = True

    is_thread_local = shop.registry.settings['tm.manager_hook'] is None
    # (Of one session that is shared nothing can be dropped.)
    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        caplog.clear()
        kind, tweens = shop.registry.way
        with shop.events(SessionWriteDropped) as dropped:
            browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert (kind, tweens, shown['user_id']) == (kind, tweens, 7)
        assert shown['_csrft_'] == tokens[-1]
        shares = kind is not with_cookie or (is_thread_local and not tweens)
        assert (kind, tweens, 'after' in shown) == (kind, tweens, shares)
        assert len(dropped) == ('another request logged in' in caplog.text)
        assert len(dropped) == (not shares)
        assert len(shop.rows()) == 1


@beside
def test_a_logout_beside_the_login_of_a_new_visitor(shop):
    """T9, C5: it ends what the outer view has begun, not the login."""

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session['user_id'] = 7

    @shop.view
    def outer(request):
        request.session['before'] = True
        anyway(request, '/inner')
        if 'commit' in request.params:
            request.tm.commit()
            request.tm.begin()
        request.session.invalidate()

    for query in ('', '?commit=1'):
        (browser,) = newcomers(shop, [(with_cookie, True)])
        browser.get(f'/outer{query}')
        shop.clock.advance(minutes=2)
        assert browser.get('/show').text == "{'user_id': 7}"

def change_outside(request):
    request.session['outer'] = True


#: What the view around a login does before or after it.
AROUND = {
    'a look': lambda request: dict(request.session),
    'a change': change_outside,
    'a commit by hand': lambda request: commit_by_hand(
        request, change_outside
    ),
    'a callback': lambda request: call_back(request, change_outside),
    'a subrequest that shares it': lambda request: (
        request.invoke_subrequest(with_transaction(request, '/add'))
    ),
    'a subrequest of its own': lambda request: (
        request.invoke_subrequest(
            with_cookie(request, '/add'),
            # Through tweens it would replace the thread's transaction.
            use_tweens=bool(request.registry.settings['tm.manager_hook']),
        )
    ),
}


@both_managers
@pytest.mark.parametrize('second', AROUND.values(), ids=AROUND)
@pytest.mark.parametrize('first', AROUND.values(), ids=AROUND)
@pytest.mark.parametrize('place', [0, 1, 2])
def test_a_login_of_a_new_visitor_in_the_transaction(
    shop, first, second, place, caplog
):
    """T9, R4: nothing is lost, and he has the cookie of the login."""

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session['user_id'] = 7

    @shop.view
    def add(request):
        request.session['added'] = True

    @shop.view
    def outer(request):
        request.headers.setdefault('Cookie', 'other=1')
        steps = [first, second]
        steps.insert(place, lambda request: request.invoke_subrequest(
            with_transaction(request, '/inner')
        ))
        for step in steps:
            step(request)

    browser = shop.browser()
    answer = browser.get('/outer')
    assert len(answer.headers.getall('Set-Cookie')) == 1
    shop.clock.advance(minutes=2)
    shown = ast.literal_eval(browser.get('/show').text)
    # One of its own after the COMMIT comes as another browser would.
    is_late = place == 0 and first is AROUND['a commit by hand'] and (
        second is AROUND['a subrequest of its own']
        and shop.registry.settings['tm.manager_hook'] is not None
    )
    expected = {'user_id': 7}
    if not is_late and {first, second} & {
        AROUND[name] for name in AROUND if 'sub' in name
    }:
        expected['added'] = True
    if {first, second} & {AROUND[name] for name in AROUND if name in (
        'a change', 'a commit by hand', 'a callback'
    )}:
        expected['outer'] = True
    assert shown == expected
    assert len(shop.rows()) == 1
    assert ('were dropped' in caplog.text) == is_late


@both_managers
def test_two_logins_of_a_new_visitor(shop):
    """T9, C5: he has that of the outer view, which comes after the other."""

    @shop.view
    def inner(request):
        request.session.rotate(login=True)
        request.session.update(user_id=7, inner=True)

    @shop.view
    def outer(request):
        request.session.get('n')
        anyway(request, '/inner')
        request.session.rotate(login=True)
        request.session['user_id'] = 8

    for browser in newcomers(shop, [(with_cookie, True)]):
        browser.get('/outer')
        assert browser.get('/show').text == "{'user_id': 8}"


@both_managers
def test_a_new_visitor_who_is_logged_out_after_a_subrequest(shop):
    """T9, C4: what the subrequest has begun ends with it."""
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session.get('n')
        anyway(request, '/inner')
        request.session.invalidate()

    for browser in newcomers(shop):
        browser.get('/outer')
        assert (shop.registry.way, browser.get('/show').text) == (
            shop.registry.way, '{}'
        )
        assert shop.rows() == []


@both_managers
@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('after', [False, True])
def test_a_subrequest_that_replaces_what_a_new_visitor_begins(
    shop, before, after
):
    """T9, C4: he gets its session, and what is put in later is dropped."""

    @shop.view
    def inner(request):
        request.session.invalidate()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        if before:
            request.session['before'] = True
        anyway(request, '/inner')
        if after:
            request.session['after'] = True

    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        if not before:
            # Not by one that finds the session that is stored by then.
            shown.pop('after', None)
        assert (shop.registry.way, shown) == (
            shop.registry.way, {'inner': True}
        )
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('change', ['set', 'rotate', 'replace'])
def test_a_subrequest_after_a_commit_by_hand_of_a_new_visitor(shop, change):
    """T9: it goes on with the session that is stored already."""

    @shop.view
    def inner(request):
        if change == 'rotate':
            request.session.rotate()
        if change == 'replace':
            request.session.invalidate()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        anyway(request, '/inner')

    expected = {'inner': True}
    if change != 'replace':
        expected['outer'] = True
    for browser in newcomers(shop, [way for way in WAYS
                                    if way[0] is not with_session]):
        browser.get('/outer')
        shop.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, shown) == (shop.registry.way, expected)
        assert len(shop.rows()) == 1


@on_sqlite
@pytest.mark.parametrize('manager', MANAGERS.values(), ids=MANAGERS)
def test_a_new_visitor_sees_what_a_commit_by_hand_has_merged(
    make_site, manager
):
    """T9: what the subrequest put in, and an end of both is one."""
    site = with_views(make_site(**{'tm.manager_hook': manager}))

    site.view(inner)

    @site.view
    def rotate(request):
        request.session.rotate()
        request.session['rotated'] = True

    @site.view
    def outer(request):
        request.invoke_subrequest(with_environ(request, '/inner'))
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        seen = dict(request.session)
        if 'replace' in request.params:
            request.invoke_subrequest(with_environ(request, '/rotate'))
            request.session.invalidate()
            if request.params['replace'] == 'later':
                request.tm.commit()
                request.tm.begin()
            request.session['new'] = True
        return seen

    for query, expected in (
        ('', {'outer': True, 'inner': True}), ('?replace=now', {'new': True}),
        ('?replace=later', {'new': True}),
    ):
        browser = site.browser()
        seen = browser.get(f'/outer{query}').text
        assert ast.literal_eval(seen) == {'outer': True, 'inner': True}
        site.clock.advance(minutes=2)
        shown = ast.literal_eval(browser.get('/show').text)
        assert shown == expected


@both_managers
def test_savepoints_around_a_subrequest_of_a_new_visitor(shop):
    """T2, T9: what is left is stored, whoever has said it first."""
    shop.view(inner)

    @shop.view
    def outer(request):
        if 'before' in request.params:
            request.session['outer'] = True
        savepoint = request.tm.savepoint()
        anyway(request, '/inner')
        savepoint.rollback()
        if 'after' in request.params:
            request.session['outer'] = True

    for query in ('before', 'after'):
        for browser in newcomers(shop, [(with_transaction, False)]):
            browser.get(f'/outer?{query}=1')
            assert browser.get('/show').text == "{'outer': True}"
            assert len(shop.rows()) == 1


@both_managers
def test_a_view_of_a_new_visitor_that_fails_after_a_subrequest(make_shop):
    """T3, T9: an exception view's words are put beside what is stored."""
    shop = make_shop(configure=answering(flash_error))
    shop.view(inner)

    @shop.view
    def outer(request):
        request.session['outer'] = True
        request.session.get_csrf_token()
        anyway(request, '/inner')
        raise Failure

    ways, is_apart = WAYS, True
    if shop.registry.settings['tm.manager_hook'] is None:
        # Through tweens, one without the keys ends the outer transaction.
        ways, is_apart = [w for w in WAYS if w != (with_cookie, True)], False
    for browser in newcomers(shop, ways):
        browser.get('/outer')
        kind, tweens = shop.registry.way
        expected = {'_f_': ['Please log in']}
        if kind is with_cookie and is_apart:
            expected['inner'] = True
        shown = ast.literal_eval(browser.get('/show').text)
        assert (kind, tweens, shown) == (kind, tweens, expected)
        assert len(shop.rows()) == 1


@both_managers
@pytest.mark.parametrize('before', ['nothing', 'a look', 'a change'])
def test_a_view_of_a_new_visitor_that_runs_again(make_shop, before):
    """T5, T9: one record comes out of all attempts."""
    shop = make_shop(retry=True)

    @shop.view
    def inner(request):
        request.session['inner'] = True

    @shop.view
    def outer(request):
        LOOKS[before](request.session)
        anyway(request, '/inner')
        request.session['after'] = True
        if request.environ['retry.attempt'] == 0:
            raise Passing

    expected = {'inner': True, 'after': True}
    if before == 'a change':
        expected['before'] = True
    for browser in newcomers(shop):
        browser.get('/outer')
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, shown) == (shop.registry.way, expected)
        assert len(shop.rows()) == 1


@both_managers
def test_the_fields_of_what_a_new_visitor_begins(make_shop):
    """D3, T9: they follow from what both have put in."""
    shop = make_shop(
        additional_fields='user_id: Integer index\nlanguage: String(2)',
        max_sessions_per_user=1,
    )

    @shop.view
    def inner(request):
        request.session['user_id'] = 7

    @shop.view
    def outer(request):
        request.session['language'] = 'de'
        anyway(request, '/inner')

    others = shop.browser()
    for browser in newcomers(shop):
        shop.registry.way = with_transaction, True
        others.get('/outer')
        # Which of two of one moment is the newer one would be chance.
        shop.clock.advance(seconds=1)
        browser.get('/outer')
        assert [
            (row['user_id'], row['language']) for row in shop.rows()
        ] == [(7, 'de')]
        assert 'user_id' in browser.get('/show').text

@beside
@pytest.mark.parametrize('tweens', [False, True])
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('logs_in', [False, True])
def test_a_subrequest_after_one_that_has_ended_the_session(
    shop, tweens, looks, logs_in, caplog
):
    """T9, C5: what they put in is one session, unless a user has it."""

    @shop.view
    def replace(request):
        request.session.invalidate()
        request.session['inner'] = True
        if logs_in:
            request.session.rotate(login=True)
            request.session['user_id'] = 7

    @shop.view
    def add(request):
        request.session['more'] = True

    @shop.view
    def outer(request):
        if looks:
            assert request.session['n'] == 1
        run(request, '/replace')
        run(request, '/add')
        run(request, '/add')

    shop.registry.way = (with_cookie, tweens)
    browser = start_over(shop)
    answer = browser.get('/outer')
    assert len(answer.headers.getall('Set-Cookie')) == 1
    expected = {'inner': True, 'more': True}
    if logs_in:
        expected = {'inner': True, 'user_id': 7}
    assert ast.literal_eval(browser.get('/show').text) == expected
    assert len(shop.rows()) == 1
    assert ('were dropped' in caplog.text) == logs_in


@beside
def test_a_logout_between_subrequests_that_begin_a_session(shop):
    """T9, C4: what was begun before it ends, and what comes after it stays."""

    @shop.view
    def replace(request):
        request.session.invalidate()
        request.session['inner'] = True

    @shop.view
    def log_out(request):
        request.session.invalidate()

    @shop.view
    def add(request):
        request.session['more'] = True

    @shop.view
    def outer(request):
        for name in ('replace', 'log_out', 'add'):
            run(request, f'/{name}')

    for browser in each_way(shop, [(with_cookie, True), (with_cookie, False)]):
        browser.get('/outer')
        assert browser.get('/show').text == "{'more': True}"
        assert len(shop.rows()) == 1


@beside
def test_two_logins_by_subrequests_of_two_users(shop):
    """T9, C5: the second one's session has nothing of the first one's."""

    @shop.view
    def first(request):
        request.session.invalidate()
        request.session.rotate(login=True)
        request.session.update(user_id=7, first=True)

    @shop.view
    def second(request):
        request.session.rotate(login=True)
        request.session['user_id'] = 8

    @shop.view
    def outer(request):
        run(request, '/first')
        run(request, '/second')

    for browser in each_way(shop, [(with_cookie, True), (with_cookie, False)]):
        browser.get('/outer')
        assert browser.get('/show').text == "{'user_id': 8}"


@both_managers
def test_a_stranger_within_the_page_of_a_new_visitor(shop):
    """T9: what a subrequest of another browser runs is not the visitor's."""
    shop.view(inner)

    @shop.view
    def another(request):
        request.session['another'] = True
        request.invoke_subrequest(Request.blank('/inner'), use_tweens=True)

    returning_one = start_over(shop)
    cookie = '; '.join(f'{k}={v}' for k, v in returning_one.cookies.items())

    @shop.view
    def page(request):
        request.session['page'] = True
        request.invoke_subrequest(
            Request.blank('/another', headers={'Cookie': cookie}),
            use_tweens=True,
        )

    browser = shop.browser()
    browser.get('/page')
    assert browser.get('/show').text == "{'page': True}"
    assert 'another' in returning_one.get('/show').text
    assert 'inner' not in returning_one.get('/show').text


@both_managers
@pytest.mark.parametrize('after', [False, True])
def test_a_new_visitor_whom_both_views_log_out(shop, after, caplog):
    """T9, C4: what they were to begin has ended, and nothing is missed."""

    @shop.view
    def inner(request):
        request.session['inner'] = True
        request.session.invalidate()

    @shop.view
    def outer(request):
        request.session['outer'] = True
        anyway(request, '/inner')
        request.session.invalidate()
        if after:
            request.session['after'] = True

    for browser in newcomers(shop):
        browser.get('/outer')
        assert (shop.registry.way, browser.get('/show').text) == (
            shop.registry.way, "{'after': True}" if after else '{}'
        )
        assert len(shop.rows()) == after
    assert errors(caplog) == []


@both_managers
def test_a_new_visitor_whose_subrequests_begin_and_end_a_session(shop):
    """T9, C4: after the commit the view has nothing of what has ended."""
    shop.view(inner)

    @shop.view
    def log_out(request):
        request.session.invalidate()

    @shop.view
    def outer(request):
        assert 'inner' not in request.session
        anyway(request, '/inner')
        anyway(request, '/log_out')
        request.tm.commit()
        request.tm.begin()
        return str(dict(request.session))

    for browser in newcomers(shop, IN_TRANSACTION):
        assert browser.get('/outer').text == '{}'
        assert shop.rows() == []


@both_managers
def test_a_form_after_the_session_that_a_new_visitor_has_begun(shop):
    """T9, C4: its session is a new one, and the other is gone."""
    shop.view(inner)

    @shop.view
    def outer(request):
        anyway(request, '/inner')
        request.session['outer'] = True
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()
        request.session['new'] = True
        return request.session.get_csrf_token()

    for browser in newcomers(shop):
        token = browser.get('/outer').text
        assert shop.data() == {'new': True, '_csrft_': token}
        shown = ast.literal_eval(browser.get('/show').text)
        assert (shop.registry.way, shown) == (shop.registry.way, shop.data())


@beside
def test_a_count_of_a_new_visitor_who_logs_in(make_shop):
    """C2, T9: what a subrequest has set meanwhile is a conflict."""
    shop = make_shop(conflict='retry', retry=True)
    attempts = []

    @shop.view
    def inner(request):
        request.session['n'] = 5

    @shop.view
    def outer(request):
        attempts.append(request.session.get('n', 0))
        if len(attempts) == 1:
            anyway(request, '/show')
            request.session['n'] = 1
            request.tm.commit()
            request.tm.begin()
            anyway(request, '/inner')
        request.session['n'] += 1
        request.session.rotate()

    (browser,) = newcomers(shop, [(with_cookie, True)])
    browser.get('/outer')
    assert (attempts, browser.get('/show').text) == ([0, 5], "{'n': 6}")


@both_managers
@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('runs_again', [False, True])
def test_the_login_of_a_stranger_in_a_transaction(
    make_shop, looks, runs_again
):
    """T5, T9, R4: he does not get into the session of whom he runs for."""
    shop = make_shop(retry=True)

    @shop.view
    def another(request):
        log_in(request)
        commit_by_hand(request, log_in)

    browser, stranger = start_over(shop), returning(shop)

    @shop.view
    def outer(request):
        if request.environ['retry.attempt'] == 0:
            subrequest = with_transaction(request, '/another')
            subrequest.headers['Cookie'] = f'session={shop.token(stranger)}'
            request.invoke_subrequest(subrequest)
            if runs_again:
                raise Passing
        if looks:
            assert 'inner' not in request.session

    before = shop.token(browser)
    answer = browser.get('/outer')
    assert 'Set-Cookie' not in answer.headers
    assert shop.token(browser) == before
    assert browser.get('/show').text == str(STORED)


@both_managers
def test_a_stranger_in_the_transaction_of_a_new_visitor(shop):
    """T9: though it is written before, his session stays his alone."""
    shop.view(inner)

    @shop.view
    def another(request):
        request.session['another'] = True

    returning_one = start_over(shop)
    cookie = '; '.join(f'{k}={v}' for k, v in returning_one.cookies.items())

    @shop.view
    def page(request):
        subrequest = with_transaction(request, '/another')
        subrequest.headers['Cookie'] = cookie
        request.invoke_subrequest(subrequest)
        request.session['page'] = True
        subrequest = with_transaction(request, '/inner')
        request.invoke_subrequest(subrequest)

    browser = shop.browser()
    browser.set_cookie('other', '1')
    browser.get('/page')
    shown = ast.literal_eval(browser.get('/show').text)
    assert shown == {'page': True, 'inner': True}
    shown = ast.literal_eval(returning_one.get('/show').text)
    assert shown == STORED | {'another': True}
