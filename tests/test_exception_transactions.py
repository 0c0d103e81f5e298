"""What becomes of the session when an exception view has transactions and
savepoints of its own (T3, T8, T9).
"""

import contextlib

import pytest
import sqlalchemy as sa
from zope.sqlalchemy import register

from pyramid_sqlasession import SessionNotSerializable

from .failing import answering
from .failing import Failure
from .failing import give_up_early
from .shop import add_note
from .shop import both_managers
from .shop import commit_fails
from .shop import first_vote_fails
from .shop import flash_error
from .shop import prepare_deferred
from .shop import returning
from .shop import STORED
from .site import get_dbsession
from .site import Note


class Denied(Exception):
    """What a view raises that is answered by a page of its own."""


SORRY = STORED | {'_f_': ['sorry']}

#: What the view that fails has done before.
VIEWS = {
    'nothing': lambda request: None,
    'session': lambda request: request.session.update(n=9),
    'rows': add_note,
    'both': lambda request: (request.session.update(n=9), add_note(request)),
}

views = pytest.mark.parametrize('work', VIEWS.values(), ids=VIEWS)


@pytest.fixture
def make_accident(make_shop):
    """A function that makes a site whose view fails after *work*, and is
    answered by *answer*.
    """

    def make(work, answer, **settings):
        site = make_shop(configure=answering(answer), **settings)

        @site.view
        def fail(request):
            work(request)
            raise Failure

        return site

    return make


def begin(request):
    """Begin a transaction, where the manager does not by itself."""
    if request.tm.explicit:
        request.tm.begin()


# -- a transaction of the exception view's own --------------------------------

def log_by_hand(request):
    """Commit by hand, begin again."""
    request.tm.abort()
    request.tm.begin()
    request.dbsession.add(Note(text=f'n was {request.session.get("n")}'))
    request.tm.commit()
    request.tm.begin()


def log_in_a_block(request):
    """Commit a transaction in which the session was read."""
    request.tm.abort()
    with request.tm:
        request.dbsession.add(Note(text=f'n was {request.session["n"]}'))
    begin(request)


def log_and_change(request):
    """Commit a change of the session, too."""
    request.tm.abort()
    with request.tm:
        request.session['seen'] = True
        request.dbsession.add(Note(text='n was 1'))
    begin(request)
    del request.session['seen']


@both_managers
@views
@pytest.mark.parametrize('log', [log_by_hand, log_in_a_block, log_and_change])
def test_what_is_said_after_a_commit_by_hand(make_accident, work, log):
    """T3, T9: it is stored, as if there had been no such commit."""

    def answer(request):
        log(request)
        request.session.flash('sorry')

    site = make_accident(work, answer)
    browser = returning(site)
    browser.get('/fail')
    assert site.notes() == ['n was 1']
    assert site.data() == SORRY


# -- a transaction that nobody has ended --------------------------------------

@both_managers
@views
@pytest.mark.parametrize('is_by_hand', [False, True])
def test_a_before_commit_hook_that_fails(make_shop, work, is_by_hand):
    """T3: the words are stored after an abort, and wait for no lock."""
    site = make_shop(configure=answering(flash_error))
    browser = returning(site)

    def refuse():
        raise Failure

    @site.view
    def fail(request):
        if is_by_hand:
            request.tm.commit()
            request.tm.begin()
        request.session.get('n')
        work(request)
        request.dbsession.execute(
            sa.text('UPDATE sessions SET version = version')
        )
        request.tm.get().addBeforeCommitHook(refuse)

    give_up_early(site.engine)
    browser.get('/fail')
    assert site.notes() == []
    assert site.data() == STORED | {'_f_': ['Please log in']}


@both_managers
def test_a_touch_after_a_before_commit_hook_that_fails(make_shop):
    """E2: it comes after an abort, too, and waits for no lock."""
    site = make_shop(configure=answering(lambda request: 'sorry'))
    browser = returning(site)
    before = site.rows()[0]['expires']

    def refuse():
        raise Failure

    @site.view
    def fail(request):
        request.session.get('n')
        request.dbsession.execute(
            sa.text('UPDATE sessions SET version = version')
        )
        request.tm.get().addBeforeCommitHook(refuse)

    give_up_early(site.engine)
    site.clock.advance(minutes=2)
    browser.get('/fail')
    assert site.rows()[0]['expires'] > before


@both_managers
@pytest.mark.parametrize('refuse', [commit_fails, first_vote_fails])
def test_a_veto_and_a_commit_that_fails(make_shop, refuse):
    """T2, T3: both words are gone, and those about the COMMIT are stored."""
    def configure(config):
        answering(lambda request: request.session.flash('sorry'))(config)
        answering(flash_error, context=Denied)(config)
        answering(
            lambda request: request.session.flash('sorry'),
            context=sa.exc.DBAPIError,
        )(config)

    site = make_shop(
        configure=configure,
        **{'tm.commit_veto': 'pyramid_tm.default_commit_veto'},
    )
    prepare_deferred(site)

    @site.view
    def fail(request):
        request.session.update(n=9)
        request.session.flash('Saved!')
        add_note(request)
        refuse(request, site)
        raise Denied

    browser = returning(site)
    browser.get('/fail')
    assert site.notes() == []
    assert site.data() == SORRY


@pytest.mark.parametrize(
    ('database', 'make_shop'), [('sqlite', 'implicit')], indirect=True
)
def test_a_transaction_of_a_response_callback(make_shop):
    """T9, T8: the words of the exception view do not abort it."""
    site = make_shop(configure=answering(flash_error))
    give_up_early(site.engine)

    def audit(request, response):
        add_note(request, 'audit')
        request.dbsession.flush()

    @site.view
    def fail(request):
        request.add_response_callback(audit)
        request.add_finished_callback(lambda request: request.tm.commit())
        raise Failure

    returning(site).get('/fail')
    assert site.notes() == ['audit']


# -- savepoints ---------------------------------------------------------------

def start_over(request):
    """Have another transaction."""
    request.tm.abort()
    request.tm.begin()


@both_managers
@views
@pytest.mark.parametrize('before', [
    lambda request: None, start_over,
    lambda request: request.session.get('n'),
], ids=['', 'over', 'look'])
def test_a_savepoint_that_is_rolled_back(make_accident, work, before):
    """T9: in an exception view, too, it takes the session back."""
    seen = []

    def answer(request):
        before(request)
        with contextlib.suppress(Failure), request.dbsession.begin_nested():
            request.session.flash('logged')
            raise Failure
        seen.append(dict(request.session))

    site = make_accident(work, answer)
    browser = returning(site)
    browser.get('/fail')
    assert seen == [STORED]
    assert site.data() == STORED


def keeping(request):
    """Return a dbsession that outlives its transactions."""
    found = request.registry['dbsession_factory']()
    register(found, transaction_manager=request.tm, keep_session=True)
    return found


@pytest.mark.parametrize(
    'database', ['postgresql', 'mariadb'], indirect=True
)
@views
@pytest.mark.parametrize('make', [get_dbsession, keeping])
def test_a_savepoint_that_is_left_open(make_accident, work, make):
    """T3: what an exception view says after it is stored all the same."""

    def answer(request):
        request.dbsession.execute(sa.text('SELECT 1'))
        request.tm.savepoint()
        request.session.flash('sorry')

    site = make_accident(
        work, answer, with_dbsession=lambda config: config.add_request_method(
            make, 'dbsession', reify=True
        ),
    )
    browser = returning(site)
    browser.get('/fail')
    assert site.data() == SORRY


# -- no transaction of pyramid_tm ---------------------------------------------

UNMANAGED = {'tm.activate_hook': lambda request: False}


def say_saved(request):
    """Say what is not true if the view fails."""
    request.session.flash('Saved!')


def say_saved_and_abort(request):
    """Fail in a transaction by hand, too."""
    request.session.flash('Saved!')
    with contextlib.suppress(Failure), request.tm:
        request.session['x'] = 1
        raise Failure


def say_saved_and_go_on(request):
    """Change the session after that."""
    say_saved_and_abort(request)
    request.session['y'] = 1


def log(request):
    """Write a line in a transaction by hand."""
    with request.tm:
        request.dbsession.add(Note(text=f'n was {request.session["n"]}'))


@both_managers
@pytest.mark.parametrize('work', [
    say_saved, say_saved_and_abort, say_saved_and_go_on,
])
@pytest.mark.parametrize('logs', [False, True])
@pytest.mark.parametrize('first', [False, True])
def test_the_views_words_are_gone_without_a_transaction(
    make_accident, work, logs, first
):
    """T3, T8: whatever the exception view, or the view, has by hand."""

    def answer(request):
        if first:
            request.session.flash('sorry')
        if logs:
            log(request)
        if not first:
            request.session.flash('sorry')

    site = make_accident(work, answer, **UNMANAGED)
    browser = returning(site)
    browser.get('/fail')
    assert site.notes() == ['n was 1'] * logs
    assert site.data() == SORRY


@both_managers
@pytest.mark.parametrize('work', [lambda request: None, say_saved])
@pytest.mark.parametrize('before', [False, True])
def test_a_transaction_by_hand_that_is_aborted(make_accident, work, before):
    """T2: in an exception view, too, it takes its changes with it."""

    def answer(request):
        if before:
            request.session['before'] = True
        with contextlib.suppress(Failure), request.tm:
            request.session.flash('logged')
            raise Failure

    site = make_accident(work, answer, **UNMANAGED)
    browser = returning(site)
    browser.get('/fail')
    assert site.data() == STORED | ({'before': True} if before else {})


# -- listeners to the flush ---------------------------------------------------

@pytest.fixture
def audited(make_shop):
    """A function that makes a site whose listener to the flush changes the
    session so.
    """

    def make(**values):
        site = make_shop()

        @site.view
        def audit(request):
            request.session['n'] = 2
            sa.event.listen(
                request.dbsession, 'before_flush',
                lambda *args: request.session.update(values),
            )
            add_note(request)

        return site

    return make


@both_managers
@pytest.mark.parametrize(('values', 'updates'), [
    ({'audit': [1]}, 1), ({'n': 3}, 1),
    # It takes back what the view has changed.
    ({'n': 1}, 0),
], ids=['new', 'other', 'none'])
def test_what_a_listener_to_the_flush_changes(audited, values, updates):
    """T1, T6: it is written with all else, once, before the one COMMIT."""
    site = audited(**values)
    browser = returning(site)
    site.listen()
    browser.get('/audit')
    assert site.data() == STORED | {'n': 2} | values
    assert site.statements.verbs.count('UPDATE') == updates
    assert site.notes() == ['a note']


@both_managers
def test_a_listener_to_the_flush_stores_what_cannot_be(audited):
    """T1, R6: nothing is committed then, of the application neither."""
    site = audited(audit=object())
    browser = returning(site)
    with pytest.raises(SessionNotSerializable):
        browser.get('/audit')
    assert site.notes() == []
    assert site.data() == STORED
