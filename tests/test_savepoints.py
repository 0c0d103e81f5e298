"""Transactions and savepoints by the hand of a view (T9)."""

from collections import Counter
from collections import defaultdict
from collections import namedtuple
from collections import OrderedDict
import copy

import pytest
import sqlalchemy as sa
import zope.sqlalchemy

from pyramid_sqlasession import SessionCreated

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .shop import add_note
from .shop import both_managers
from .shop import change_as_asked
from .shop import CHANGES
from .shop import flash_error
from .shop import flush_fails
from .shop import flush_fails_at_commit
from .shop import returning
from .shop import start_over
from .shop import STORED
from .shop import with_views
from .site import Note
from .subrequests import with_transaction

# -- T9: transactions by hand -------------------------------------------------


@both_managers
def test_commit_by_hand_keeps_both_halves(shop):
    """T9: before and after ``tm.commit()``, one record and one cookie."""
    seen = []

    @shop.view
    def twice(request):
        request.session['a'] = 1
        add_note(request)
        request.tm.commit()
        seen.append((shop.data(), shop.notes()))
        request.tm.begin()
        request.session['b'] = 2
        add_note(request, 'another note')

    browser = shop.browser()
    with shop.events() as events:
        response = browser.get('/twice')
    assert seen == [({'a': 1}, ['a note'])]
    assert shop.data() == {'a': 1, 'b': 2}
    assert shop.notes() == ['a note', 'another note']
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert [type(e) for e in events if isinstance(e, SessionCreated)] == [
        SessionCreated
    ]
    assert browser.get('/show').text == "{'a': 1, 'b': 2}"


@both_managers
def test_each_commit_by_hand_is_one_statement(shop):
    """T9, D4: a request knows the version that it has written."""

    @shop.view
    def work(request):
        for number in range(3):
            request.session['n'] = number
            request.tm.commit()
            request.tm.begin()

    browser = returning(shop)
    shop.listen()
    browser.get('/work')
    assert shop.statements.verbs == ['SELECT', 'UPDATE', 'UPDATE', 'UPDATE']


@both_managers
def test_commit_by_hand_in_a_loop(shop):
    """T9: each round starts from what the last one stored."""

    @shop.view
    def loop(request):
        for _ in range(3):
            request.session['n'] += 1
            request.session['list'].append(len(request.session['list']) + 1)
            request.tm.commit()
            request.tm.begin()

    returning(shop).get('/loop')
    assert shop.data() == {'n': 4, 'list': [1, 2, 3, 4]}


@on_sqlite
def test_a_reference_lives_on_after_a_commit_by_hand(shop):
    """T9, R7: a list that the view holds is still that of the session."""

    @shop.view
    def hold(request):
        held = request.session['list']
        held.append(2)
        request.tm.commit()
        request.tm.begin()
        held.append(3)

    returning(shop).get('/hold')
    assert shop.data()['list'] == [1, 2, 3]


@both_managers
@pytest.mark.parametrize('visitor', ['new', 'returning'])
def test_a_failure_after_a_commit_by_hand(make_shop, visitor):
    """T2, T9: what was committed stays, with its cookie; the rest is gone."""
    site = make_shop(configure=answering(flash_error))

    @site.view
    def half(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session['b'] = 2
        raise Failure

    browser = site.browser() if visitor == 'new' else returning(site)
    response = browser.get('/half')
    data = site.data()
    assert data['a'] == 1
    assert data['_f_'] == ['Please log in']
    assert 'b' not in data
    assert ('Set-Cookie' in response.headers) == (visitor == 'new')
    assert "'a': 1" in browser.get('/show').text


def fail(request):
    """End as a view that has failed."""
    raise Failure


def answer_400(request):
    """End with a response that the veto lets roll back."""
    request.response.status = 400
    return request.response


@pytest.mark.parametrize(('database', 'make_shop'), [
    ('sqlite', 'implicit'), ('postgresql', 'implicit'),
], indirect=True)
@pytest.mark.parametrize('first', ['commit', 'abort'])
@pytest.mark.parametrize(('end', 'is_stored'), [
    (lambda request: request.tm.abort(), False),
    (lambda request: request.tm.doom(), False),
    (answer_400, False),
    (lambda request: None, True),
    # The veto lets the page of an exception view commit.
    (fail, True),
], ids=['abort', 'doom', 'veto', 'success', 'failure'])
def test_a_transaction_that_begins_by_itself(
    make_shop, first, end, is_stored
):
    """T1, T2, T9: the thread's manager has it; the session is in it, too."""
    site = make_shop(
        configure=answering(lambda request: 'sorry'),
        **{'tm.commit_veto': 'pyramid_tm.default_commit_veto'},
    )

    @site.view
    def half(request):
        request.session['n'] = 2
        getattr(request.tm, first)()
        request.session['m'] = 3
        request.session.rotate()
        add_note(request)
        request.dbsession.flush()
        return end(request)

    browser = returning(site)
    response = browser.get('/half', status='*')
    stored = {'n': 2 if first == 'commit' else 1, 'list': [1]}
    if is_stored:
        stored['m'] = 3
    assert site.data() == stored
    assert bool(site.notes()) == is_stored
    assert ('Set-Cookie' in response.headers) == is_stored


def test_rotate_and_commit_by_hand_then_a_doomed_rest(shop):
    """T2, T9: the cookie of the rotation that was committed is sent."""

    @shop.view
    def half(request):
        request.session.rotate()
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()
        request.tm.doom()

    browser = returning(shop)
    token = shop.token(browser)
    browser.get('/half')
    assert shop.token(browser) not in (token, None)
    assert browser.get('/show').text == "{'n': 1, 'list': [1]}"


def test_invalidate_and_commit_by_hand_then_a_new_session(shop):
    """T9: the old record is gone, the new one has the cookie."""

    @shop.view
    def again(request):
        request.session.invalidate()
        request.tm.commit()
        assert shop.rows() == []
        request.tm.begin()
        assert request.session.new
        request.session['b'] = 2

    browser = returning(shop)
    browser.get('/again')
    assert shop.data() == {'b': 2}
    assert browser.get('/show').text == "{'b': 2}"


@both_managers
def test_created_and_invalidated_by_hand(shop):
    """T9: a session that came and went within a request leaves nothing."""

    @shop.view
    def fleeting(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        request.session.invalidate()

    browser = shop.browser()
    browser.get('/fleeting')
    assert shop.rows() == []
    assert shop.token(browser) is None
    assert browser.get('/show').text == '{}'


@on_sqlite
def test_rotated_twice_by_hand(shop):
    """T9: after each commit another token; the last one is sent."""

    @shop.view
    def turn(request):
        for _ in range(2):
            request.session.rotate()
            request.session['csrf'] = request.session.get_csrf_token()
            request.tm.commit()
            request.tm.begin()

    browser = returning(shop)
    response = browser.get('/turn')
    assert len(response.headers.getall('Set-Cookie')) == 1
    assert "'n': 1" in browser.get('/show').text


@both_managers
def test_a_failing_commit_by_hand(shop):
    """T2, T9: the session is taken back, and the rest of the view counts."""
    seen = []

    @shop.view
    def careful(request):
        request.session['n'] = 2
        flush_fails_at_commit(request, shop)
        try:
            request.tm.commit()
        except sa.exc.IntegrityError:
            request.tm.abort()
        request.tm.begin()
        seen.append(request.session['n'])
        request.session.flash('That exists already')

    returning(shop).get('/careful')
    assert seen == [1]
    assert shop.data() == {
        'n': 1, 'list': [1], '_f_': ['That exists already'],
    }


@both_managers
def test_reading_between_two_transactions(shop):
    """T8, T9: between ``commit`` and ``begin`` the session can be read."""
    seen = []

    @shop.view
    def between(request):
        request.session['n'] = 2
        request.tm.commit()
        seen.append(request.session['n'])
        request.session['m'] = 3
        request.tm.begin()
        seen.append(request.session['m'])

    returning(shop).get('/between')
    assert seen == [2, 3]
    assert shop.data() == {'n': 2, 'list': [1], 'm': 3}


@both_managers
def test_a_change_between_two_transactions_survives_an_abort(shop):
    """T2, T8: it belonged to none, so it is saved when the next one fails."""

    @shop.view
    def between(request):
        request.session['n'] = 2
        request.tm.commit()
        request.session['m'] = 3
        request.tm.begin()
        request.session['lost'] = True
        request.tm.doom()

    returning(shop).get('/between')
    assert shop.data() == {'n': 2, 'list': [1], 'm': 3}


def test_another_request_between_two_transactions(shop):
    """T9, C1: each half is merged with what others stored meanwhile."""

    @shop.view
    def put(request):
        request.session['m'] = 5
        request.session['n'] = 5

    @shop.view
    def slow(request):
        request.session['a'] = 1
        request.tm.commit()
        shop.browser(like=browser).get('/put')
        request.tm.begin()
        request.session['b'] = 2

    browser = returning(shop)
    browser.get('/slow')
    assert shop.data() == {'n': 5, 'm': 5, 'list': [1], 'a': 1, 'b': 2}


LATER = {
    'an expiry': lambda request: request.session.set_expiry(86400 * 2),
    'a touch': lambda request: request.session.touch(),
}


@pytest.mark.parametrize('later', LATER.values(), ids=LATER)
@pytest.mark.parametrize('other', ['log_in', 'log_out', 'put'])
def test_a_login_elsewhere_after_a_commit_by_hand(shop, later, other):
    """C5, R4, T9: the cookie of before it does not replace the login's."""

    @shop.view
    def log_in(request):
        request.session.rotate()

    @shop.view
    def log_out(request):
        request.session.invalidate()

    @shop.view
    def put(request):
        request.session['n'] = 2

    @shop.view
    def slow(request):
        later(request)
        request.tm.commit()
        request.tm.begin()
        shop.browser(like=browser).get(f'/{other}')

    browser = returning(shop)
    shop.clock.advance(minutes=2)
    answer = browser.get('/slow')
    assert ('Set-Cookie' in answer.headers) == (other == 'put')


def test_a_database_that_is_away_after_a_commit_by_hand(shop, monkeypatch):
    """R4, D1: the cookie is sent, as what it is for was committed."""

    @shop.view
    def slow(request):
        request.session.touch()
        request.tm.commit()
        request.tm.begin()
        monkeypatch.setattr(
            type(shop.application.database), 'find_aside', fail
        )

    def fail(*args):
        raise sa.exc.OperationalError('', {}, Exception('away'))

    browser = returning(shop)
    shop.clock.advance(minutes=2)
    assert 'Set-Cookie' in browser.get('/slow').headers


# -- T9: savepoints -----------------------------------------------------------


def nested(request):
    """Return the rollback of a savepoint of the SQLAlchemy session."""
    return request.dbsession.begin_nested().rollback


def savepoint(request):
    """Return the rollback of a savepoint of the transaction."""
    return request.tm.savepoint().rollback


def savepoint_with_rows(request):
    """The same, with the application's database taking part."""
    request.dbsession.scalars(sa.select(Note)).all()
    return request.tm.savepoint().rollback


@pytest.fixture(params=[nested, savepoint, savepoint_with_rows])
def mark(request, database):
    """Begins a savepoint; returns the function that rolls it back."""
    if request.param is savepoint_with_rows and database.name == 'sqlite':
        return nested  # zope.sqlalchemy does not offer it there
    return request.param


def test_a_rolled_back_savepoint_takes_each_change_back(shop, mark):
    """T9: the session has what it had at the savepoint."""

    @shop.view
    def maybe(request):
        session = request.session
        session['before'] = True
        rollback = mark(request)
        change_as_asked(request)
        rollback()
        return dict(session)

    for change in CHANGES:
        browser = start_over(shop)
        response = browser.get(f'/maybe?change={change}')
        assert response.text == str(STORED | {'before': True})
        assert shop.data() == STORED | {'before': True}
        assert 'Set-Cookie' not in response.headers


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
@pytest.mark.parametrize('keeps', [False, True])
def test_a_session_that_takes_part_after_a_savepoint(make_site, keeps):
    """T9: with that it is taken back, and the rows from before stay."""

    def configure(config):
        config.add_request_method(dbsession, reify=True)

    def dbsession(request):
        found = request.registry['dbsession_factory']()
        zope.sqlalchemy.register(
            found, transaction_manager=request.tm, keep_session=keeps
        )
        request.add_finished_callback(lambda request: found.close())
        return found

    site = with_views(make_site(with_dbsession=configure))

    @site.view
    def view(request):
        add_note(request)
        request.dbsession.flush()
        savepoint = request.tm.savepoint()
        request.session['n'] = 2
        savepoint.rollback()

    returning(site).get('/view')
    assert site.notes() == ['a note']
    assert site.data() == STORED


def test_a_savepoint_of_a_view_that_fails(make_shop, mark):
    """T3: it ends with the transaction, and takes nothing back."""
    site = make_shop(configure=answering(flash_error))

    @site.view
    def fail(request):
        add_note(request)
        request.dbsession.flush()
        request.session['n'] = 2
        # zope.sqlalchemy has no other one on SQLite.
        (nested if site.database.name == 'sqlite' else mark)(request)
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'_f_': ['Please log in']}
    assert site.notes() == []


@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('whose', ['own', 'of the view'])
def test_whose_savepoint_is_rolled_back(make_shop, looks, whose):
    """T3, T9: it takes back what the exception view did, nothing else."""
    made = []

    def answer(request):
        if looks:
            request.session.get('n')
        if whose == 'own':
            savepoint = request.tm.savepoint()
            request.session['taken'] = 'back'
        else:
            savepoint = made.pop()
        savepoint.rollback()
        request.session['error'] = True

    site = make_shop(configure=answering(answer))

    @site.view
    def fail(request):
        request.session['n'] = 2
        if whose == 'of the view':
            made.append(request.tm.savepoint())
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'error': True}


@on_sqlite
@pytest.mark.parametrize('looks', [False, True])
def test_a_savepoint_of_a_dbsession_that_outlives_its_view(make_shop, looks):
    """T3, T9: rolled back at last, it takes none of the page's words back."""
    made = []

    def answer(request):
        request.session['error'] = True
        made.pop().rollback()

    site = make_shop(configure=answering(answer))

    @site.view
    def fail(request):
        add_note(request)
        if looks:
            request.session['n'] = 2
        made.append(request.dbsession.begin_nested())
        raise Failure

    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | {'error': True}


class Named(list):
    """A list of a class of its own."""


@pytest.mark.parametrize(('held', 'change'), [
    (OrderedDict(a=1), lambda held: held.update(b=2)),
    (defaultdict(list), lambda held: held['b'].append(2)),
    (Counter(a=1), lambda held: held.update('b')),
    (Named([1]), lambda held: held.append(2)),
    (namedtuple('Pair', 'a b')([], []), lambda held: held.a.append(2)),
], ids=lambda value: type(value).__name__)
def test_what_changes_inside_of_any_container(shop, mark, held, change):
    """T9, R6: it is as it was at the savepoint, and of its own class."""
    before = copy.deepcopy(held)

    @shop.view
    def maybe(request):
        request.session['held'] = copy.deepcopy(held)
        rollback = mark(request)
        change(request.session['held'])
        rollback()
        assert type(request.session['held']) is type(held)
        assert request.session['held'] == before

    shop.browser().get('/maybe')
    expected = list(before) if isinstance(before, list) else before
    assert shop.data()['held'] == expected


def test_a_savepoint_before_the_first_look(shop, mark):
    """T9: at the savepoint the session was what is stored."""

    @shop.view
    def maybe(request):
        rollback = mark(request)
        change_as_asked(request)
        rollback()
        return dict(request.session)

    browser = returning(shop)
    before = shop.rows()
    for change in CHANGES:
        assert browser.get(f'/maybe?change={change}').text == str(STORED)
        assert (change, shop.rows()) == (change, before)


@both_managers
@pytest.mark.parametrize('looks', [False, True])
def test_a_savepoint_before_the_first_look_beside_a_login(shop, looks):
    """T9: a session that takes part for its subrequest's sake, too."""

    @shop.view
    def inner(request):
        request.session.rotate()
        request.session['inner'] = True

    @shop.view
    def outer(request):
        request.invoke_subrequest(with_transaction(request, '/inner'))
        rollback = savepoint(request)
        if looks:
            assert request.session['n'] == 1
        request.session['lost'] = True
        rollback()
        assert dict(request.session) == STORED
        request.session['later'] = True

    browser = returning(shop)
    browser.get('/outer')
    assert shop.data() == {**STORED, 'inner': True, 'later': True}
    shop.clock.advance(minutes=2)
    assert "'later': True" in browser.get('/show').text


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
def test_who_has_joined_after_a_savepoint_joins_again(shop):
    """T9, T2: what is written after the rollback is the transaction's."""

    @shop.view
    def work(request):
        add_note(request)
        request.dbsession.flush()
        savepoint = request.tm.savepoint()
        request.session['a'] = 1
        savepoint.rollback()
        request.session['b'] = 2
        if 'doom' in request.GET:
            request.tm.doom()

    shop.browser().get('/work?doom=1')
    assert shop.rows() == []
    shop.browser().get('/work')
    assert shop.data() == {'b': 2}
    assert shop.notes() == ['a note']


def test_a_savepoint_of_a_new_visitor(shop, mark):
    """T9, R1: nothing but what was rolled back: nothing is stored."""

    @shop.view
    def maybe(request):
        rollback = mark(request)
        request.session['n'] = 1
        rollback()

    response = shop.browser().get('/maybe')
    assert shop.rows() == []
    assert 'Set-Cookie' not in response.headers


def test_writing_on_after_the_rollback(shop, mark):
    """T9: what comes after it is stored; nested values work on."""

    @shop.view
    def maybe(request):
        session = request.session
        session['list'].append(2)
        rollback = mark(request)
        session['list'].append(3)
        session['m'] = 1
        rollback()
        session['list'].append(4)
        session.flash('kept')

    returning(shop).get('/maybe')
    assert shop.data() == {'n': 1, 'list': [1, 2, 4], '_f_': ['kept']}


@on_sqlite
def test_one_savepoint_rolled_back_twice(shop, database):
    """T9: a savepoint of the transaction stays usable."""

    @shop.view
    def maybe(request):
        session = request.session
        session['n'] = 2
        point = request.tm.savepoint()
        for _ in range(2):
            session['n'] += 1
            point.rollback()

    returning(shop).get('/maybe')
    assert shop.data() == {'n': 2, 'list': [1]}


@both_managers
def test_nested_savepoints(shop, mark):
    """T9: each of two goes back to where it began, the outer one last."""
    seen = []

    @shop.view
    def maybe(request):
        session = request.session
        session['n'] = 2
        outer = mark(request)
        session['n'] = 3
        inner = mark(request)
        session['n'] = 4
        inner()
        seen.append(session['n'])
        outer()
        seen.append(session['n'])

    returning(shop).get('/maybe')
    assert seen == [3, 2]
    assert shop.data()['n'] == 2


@on_sqlite
@pytest.mark.parametrize('look', ['before', 'between', 'last'])
def test_an_outer_savepoint_after_an_inner_one_was_kept(shop, look):
    """T9: the rollback of the outer one takes the inner one's with it."""

    @shop.view
    def maybe(request):
        if look == 'before':
            len(request.session)
        outer = request.dbsession.begin_nested()
        if look == 'between':
            request.session['m'] = 1
        with request.dbsession.begin_nested():
            request.session['n'] = 2
        request.session['m'] = 2
        outer.rollback()
        return dict(request.session)

    assert returning(shop).get('/maybe').text == str(STORED)
    assert shop.data() == STORED


@on_sqlite
def test_a_savepoint_that_is_kept(shop):
    """T9: a block that ends well keeps session and row."""

    @shop.view
    def keep(request):
        with request.dbsession.begin_nested():
            add_note(request)
            request.session['n'] = 2

    returning(shop).get('/keep')
    assert shop.data()['n'] == 2
    assert shop.notes() == ['a note']


@pytest.mark.parametrize('look', ['before', 'within'])
def test_a_block_that_fails(shop, look):
    """T9: the usual pattern: try an INSERT, go on if it fails."""

    @shop.view
    def attempt(request):
        if look == 'before':
            request.session['tried'] = True
        try:
            with request.dbsession.begin_nested():
                request.session['n'] = 2
                request.session.flash('Saved!')
                flush_fails(request, shop)
        except sa.exc.IntegrityError:
            request.session.flash('That exists already')

    returning(shop).get('/attempt')
    data = shop.data()
    assert data.pop('tried', None) == (True if look == 'before' else None)
    assert data == STORED | {'_f_': ['That exists already']}


def test_a_savepoint_in_the_second_of_two_transactions(shop, mark):
    """T9: it goes back to its own beginning, not to an earlier one."""

    @shop.view
    def second(request):
        request.session['a'] = 1
        request.tm.commit()
        request.tm.begin()
        rollback = mark(request)
        request.session['b'] = 2
        rollback()
        request.session['c'] = 3

    returning(shop).get('/second')
    assert shop.data() == STORED | {'a': 1, 'c': 3}


def test_an_invalidated_session_and_a_savepoint(shop, mark):
    """T9: invalidate before, a new session after: only that is undone."""

    @shop.view
    def end(request):
        session = request.session
        session.invalidate()
        session['a'] = 1
        rollback = mark(request)
        session['b'] = 2
        rollback()

    browser = returning(shop)
    token = shop.token(browser)
    browser.get('/end')
    assert shop.data() == {'a': 1}
    assert shop.token(browser) not in (token, None)
    assert len(shop.rows()) == 1


def test_a_savepoint_in_an_exception_view(make_shop, mark):
    """T3, T9: the error page may use one too."""

    def answer(request):
        request.session['page'] = 1
        rollback = mark(request)
        request.session['page'] = 2
        rollback()

    site = make_shop(configure=answering(answer))

    @site.view
    def fail(request):
        request.session['n'] = 2
        raise Failure

    returning(site).get('/fail')
    assert site.data() == STORED | {'page': 1}


@on_sqlite
def test_a_savepoint_of_another_database(shop):
    """T9: of a SQLAlchemy session that is not the transaction's."""

    @shop.view
    def work(request):
        request.session['a'] = 1
        add_note(request)
        engine = sa.create_engine('sqlite://')
        with sa.orm.Session(engine) as other:
            savepoint = other.begin_nested()
            request.session['b'] = 2
            savepoint.rollback()
        engine.dispose()

    shop.browser().get('/work')
    assert shop.data() == {'a': 1, 'b': 2}
    assert shop.notes() == ['a note']


def test_revoking_within_a_savepoint(shop):
    """T9: a store's write is undone with the database's savepoint."""

    @shop.view
    def revoke(request):
        rollback = nested(request)
        request.session_store.revoke_all()
        rollback()
        request.session['n'] = 2

    browser = returning(shop)
    browser.get('/revoke')
    assert browser.get('/show').text == "{'n': 2, 'list': [1]}"
