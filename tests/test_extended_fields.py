"""``extend_default_fields``: a function that fills additional fields (D3)."""

import datetime as dt

import pytest
import sqlalchemy as sa
import transaction

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionError

from .failing import answering
from .failing import Failure
from .failing import on_sqlite
from .fields import field
from .fields import run
from .site import Note


@on_sqlite
def test_extend_gets_defaults_session_and_request(make_site):
    """D3: called with the defaults, the session and the request."""
    calls = []

    def extend(defaults, session, request):
        calls.append((dict(defaults), dict(session), request.path))
        return defaults | {'ip': request.remote_addr}

    site = make_site(
        additional_fields='user_id: Integer\nip: String(45)',
        extend_default_fields=extend,
    )

    def view(request):
        request.session.update(user_id=7, n=1)

    run(site, view, extra_environ={'REMOTE_ADDR': '10.0.0.1'})
    assert calls == [
        ({'user_id': 7, 'ip': None}, {'user_id': 7, 'n': 1}, '/run')
    ]
    assert (field(site, 'user_id'), field(site, 'ip')) == (7, '10.0.0.1')


def test_extend_sees_what_is_going_to_be_stored(make_site, stage):
    """D3, C1: what another request stored is there, what it deleted is not."""
    seen = []

    def extend(defaults, session, request):
        if 'slow' in session:
            seen.append(dict(session))
        return defaults

    site = make_site(extend_default_fields=extend)

    def begin(request):
        request.session.update(n=1, gone=1)

    def slow(request):
        request.session['slow'] = 1
        stage.reach('changed')

    def meanwhile(request):
        del request.session['gone']
        request.session['new'] = 1

    browser = run(site, begin)
    site.views['slow'] = slow
    running = stage.run(site.browser(like=browser).get, '/slow')
    stage.wait('changed')
    run(site, meanwhile, browser)
    stage.let('changed')
    running.result()
    assert seen[0] == {'n': 1, 'gone': 1, 'slow': 1}
    assert seen[-1] == {'n': 1, 'new': 1, 'slow': 1} == site.data()


SAVES = {
    'change': lambda session: session.__setitem__('n', 2),
    'rotate': lambda session: session.rotate(),
    'set_expiry': lambda session: session.set_expiry(300),
}


@pytest.mark.parametrize('save', SAVES.values(), ids=SAVES)
@on_sqlite
def test_extend_is_called_at_each_save(make_site, save):
    """D3: what it takes from the request is fresh after every save."""
    site = make_site(
        additional_fields='ip: String(45)',
        extend_default_fields=lambda defaults, session, request: {
            'ip': request.remote_addr
        },
    )

    def begin(request):
        request.session['n'] = 1

    browser = run(site, begin, extra_environ={'REMOTE_ADDR': '10.0.0.1'})
    run(
        site, lambda request: save(request.session), browser,
        extra_environ={'REMOTE_ADDR': '10.0.0.2'},
    )
    assert field(site, 'ip') == '10.0.0.2'


def count_notes(defaults, session, request):
    """Return fields for which the application's database is asked."""
    found = request.dbsession.scalars(sa.select(Note)).all()
    return defaults | {'count': len(found)}


def change(request):
    """Change the session, and nothing else."""
    request.session['n'] = 1


def change_beside_data(request):
    """Change the session beside what the view has read."""
    request.dbsession.scalars(sa.select(Note)).all()
    change(request)


def change_or_empty(request):
    """Empty the session, if it holds anything."""
    if request.session:
        request.session.clear()
    else:
        change(request)


def change_late(request):
    """Change the session when the response is on its way."""
    request.add_response_callback(lambda request, response: change(request))


def fail(request):
    """Have an exception view change the session."""
    change_beside_data(request)
    raise Failure


@pytest.mark.parametrize(
    'view', [change, change_or_empty, change_beside_data, change_late, fail]
)
@pytest.mark.parametrize('is_apart', [False, True])
def test_extend_may_ask_the_database(make_site, tmp_path, view, is_apart):
    """D3: with ``request.dbsession``, wherever the change is saved."""
    site = make_site(
        additional_fields='count: Integer', configure=answering(change),
        extend_default_fields=count_notes,
        engine_options=None if is_apart else {
            'pool_size': 1, 'max_overflow': 0, 'pool_timeout': 0.1
        },
        **{'url': f'sqlite:///{tmp_path}/own.sqlite'} if is_apart else {},
    )
    with site.outside.begin() as connection:
        connection.execute(sa.insert(Note).values(text='a note'))
    records = site.application.records.table
    for _ in range(2):
        browser = run(site, view)
        run(site, view, browser)
    with site.application.engine.connect() as connection:
        assert connection.execute(sa.select(records.c.count)).all() == [
            (1,), (1,)
        ]
    assert site.notes() == ['a note']
    assert site.engine.pool.checkedout() == 0


@pytest.mark.parametrize('manager', ['explicit', None])
def test_extend_after_a_commit_that_failed(make_site, manager):
    """D3, T3: what the exception view changes is stored all the same."""
    site = make_site(
        additional_fields='count: Integer',
        extend_default_fields=count_notes,
        configure=answering(change, sa.exc.IntegrityError),
        **{'tm.manager_hook': (
            manager and 'pyramid_tm.explicit_manager'
        )},
    )
    with site.outside.begin() as connection:
        connection.execute(sa.insert(Note).values(text='a note'))

    def add_the_same(request):
        request.session['paid'] = True
        request.dbsession.add(Note(text='a note'))

    run(site, add_the_same)
    assert site.data() == {'n': 1}
    assert field(site, 'count') == 1


@pytest.mark.parametrize('is_apart', [False, True])
@pytest.mark.parametrize('case', ['emptied', 'merged', 'renewed'])
def test_extend_may_ask_for_what_is_not_foreseen(
    make_site, tmp_path, stage, case, is_apart
):
    """D3, C1: also where the record will hold other data than the session."""
    site = make_site(
        additional_fields='count: Integer',
        extend_default_fields=count_notes, renewal_interval='1h',
        **{'url': f'sqlite:///{tmp_path}/own.sqlite'} if is_apart else {},
    )
    site.views['change'] = change

    @site.view
    def act(request):
        if case == 'emptied':
            request.session.clear()
        else:
            request.session['other'] = 1
        request.dbsession.scalars(sa.select(Note)).all()
        if case == 'merged':
            stage.reach('changed')

    browser = site.browser()
    browser.get('/change')
    if case == 'renewed':
        site.clock.advance(hours=2)
    running = stage.run(site.browser(like=browser).get, '/act')
    if case == 'merged':
        stage.wait('changed')
        site.views['change'] = lambda request: request.session.update(n=2)
        browser.get('/change')
        stage.let('changed')
    assert running.result().status_int == 200
    records = site.application.records.table
    with site.application.engine.connect() as connection:
        assert connection.scalar(sa.select(records.c.count)) == 0


@pytest.mark.parametrize('is_apart', [False, True])
@pytest.mark.parametrize('retry', [False, True])
def test_extend_that_asks_first_for_what_a_merge_brings(
    make_site, tmp_path, stage, retry, is_apart
):
    """D3, C1: too late to join the transaction, the request runs again."""
    def count_for_the_curious(defaults, session, request):
        return (
            count_notes(defaults, session, request) if 'curious' in session
            else defaults
        )

    site = make_site(
        additional_fields='count: Integer', retry=retry,
        extend_default_fields=count_for_the_curious,
        **{'url': f'sqlite:///{tmp_path}/own.sqlite'} if is_apart else {},
    )
    site.views['change'] = change

    @site.view
    def act(request):
        request.session['other'] = 1
        stage.reach('changed')

    browser = site.browser()
    browser.get('/change')
    running = stage.run(site.browser(like=browser).get, '/act')
    stage.wait('changed')
    site.views['change'] = lambda request: request.session.update(curious=1)
    browser.get('/change')
    stage.let('changed')
    if retry:
        running.result()
    else:
        with pytest.raises(SessionConflict, match='whatever the session'):
            running.result()
    table = site.application.records.table
    with site.application.engine.connect() as connection:
        data = connection.scalar(sa.select(table.c.data))
    assert ('other' in data) == retry
    assert 'curious' in data
    assert site.engine.pool.checkedout() == 0


@on_sqlite
@pytest.mark.parametrize('explicit', [False, True])
def test_extend_beside_a_transaction_of_the_tests(
    make_site, tmp_path, explicit
):
    """T0, T7, D3: no other one is begun in its place."""
    site = make_site(
        additional_fields='n: Integer', url=f'sqlite:///{tmp_path}/own.sqlite',
        extend_default_fields=lambda defaults, *_: defaults,
    )
    manager = transaction.TransactionManager(explicit=explicit)
    begun = manager.begin()
    run(site, change, extra_environ={
        'tm.active': True, 'tm.manager': manager,
    })
    assert manager.get() is begun
    manager.abort()
    with site.application.engine.connect() as connection:
        assert len(connection.execute(
            sa.select(site.application.records.table)
        ).all()) == 1


@on_sqlite
def test_extend_is_not_called_without_a_save(make_site):
    """D3: neither for a read nor for a touch."""
    calls = []
    site = make_site(
        additional_fields='n: Integer',
        extend_default_fields=lambda defaults, *_: (
            calls.append(1) or defaults
        ),
    )

    def begin(request):
        request.session['n'] = 1

    browser = run(site, begin)
    assert len(calls) == 1
    site.clock.advance(hours=1)
    run(site, lambda request: request.session['n'] and None, browser)
    assert len(calls) == 1


@on_sqlite
def test_extend_is_not_called_for_an_end(make_site):
    """D3: a logout writes no fields, and needs nothing that they need."""
    site = make_site(
        additional_fields='user_id: Integer',
        extend_default_fields=lambda defaults, session, request: {
            'user_id': session['user']
        },
    )
    browser = run(site, lambda request: request.session.update(user=7))
    old = site.browser(like=browser)
    assert field(site, 'user_id') == 7
    run(site, lambda request: request.session.rotate(), browser)
    # What a dead session is given is dropped (C5).
    run(site, lambda request: request.session.update(n=1), old)
    run(site, lambda request: request.session.invalidate(), browser)
    assert site.rows() == []


@on_sqlite
@pytest.mark.parametrize(
    ('returned', 'words'),
    [
        (None, 'must return a dict'), ([], 'must return a dict'),
        ({'usr_id': 1}, 'usr_id'), ({'user_id': 'seven'}, 'user_id'),
        ({'secret_hash': b'x' * 32}, 'secret_hash'),
        ({'expires': dt.datetime(2030, 1, 1, tzinfo=dt.UTC)}, 'expires'),
        ({'name': '\ud800'}, 'surrogate'),
    ],
    ids=['none', 'list', 'unknown', 'misfit', 'hash', 'expires', 'surrogate'],
)
def test_extend_that_returns_nonsense(make_site, returned, words):
    """D3: an error that says so, and nothing is stored."""
    site = make_site(
        additional_fields='user_id: Integer\nname: Text',
        extend_default_fields=lambda *_: returned,
    )

    def view(request):
        request.session['n'] = 1

    with pytest.raises(SessionError, match=words):
        run(site, view)
    assert site.rows() == []


@on_sqlite
def test_extend_that_raises(make_site):
    """D3, T1: its own error ends the request, nothing is stored."""

    def extend(*_):
        raise LookupError('no such user')

    site = make_site(extend_default_fields=extend)

    def view(request):
        request.dbsession.add(Note(text='lost'))
        request.session['n'] = 1

    with pytest.raises(LookupError, match='no such user'):
        run(site, view)
    assert site.rows() == []
    assert site.notes() == []


CHANGES_OF_A_FUNCTION = {
    'n': lambda session: session.__setitem__('n', 2),
    'seen': lambda session: session.setdefault('seen', 1),
    '_csrft_': lambda session: session.get_csrf_token(),
    'rotate': lambda session: session.rotate(),
    'invalidate': lambda session: session.invalidate(),
    'set_expiry': lambda session: session.set_expiry(60),
    'touch': lambda session: session.touch(),
    'changed': lambda session: session.changed(),
}


@on_sqlite
@pytest.mark.parametrize('name', CHANGES_OF_A_FUNCTION)
@pytest.mark.parametrize('late', [False, True])
def test_extend_that_changes_the_session(make_site, name, late):
    """D3, T1: an error that names the change; the save comes to an end."""

    def extend(defaults, session, request):
        CHANGES_OF_A_FUNCTION[name](session)
        return defaults

    site = make_site(extend_default_fields=extend)

    def change(request, response=None):
        request.session['n'] = 1

    def view(request):
        request.dbsession.add(Note(text='a note'))
        if late:
            request.add_response_callback(change)
        else:
            change(request)

    words = rf'changed the session \({name}(\(\))?\)'
    with pytest.raises(SessionError, match=words) as caught:
        run(site, view)
    assert 'sqlasession.extend_default_fields' in str(caught.value)
    assert site.rows() == []
    assert len(site.notes()) == late


@on_sqlite
def test_extend_that_looks_into_a_value(make_site):
    """D3, D4: no change, nor does it cost a second write."""

    def extend(defaults, session, request):
        session['list'].append('copy')
        return defaults | {'size': len(request.session['list'])}

    site = make_site(
        additional_fields='size: Integer', extend_default_fields=extend,
    )

    def view(request):
        request.session['list'] = [1]

    browser = run(site, view)
    assert site.data() == {'list': [1]}
    site.listen()

    def change(request):
        request.session['n'] = 1
        site.statements.clear()

    run(site, change, browser)
    assert site.statements.verbs == ['UPDATE']
    assert site.data() == {'list': [1], 'n': 1}


def extend_by_name(defaults, session, request):
    """For the dotted name in the next test."""
    return {'user_id': session['n'] * 2}


@on_sqlite
def test_extend_by_dotted_name(make_site):
    """D3: as an ini file says it; fields left out keep their defaults."""
    site = make_site(
        additional_fields='user_id: Integer\nn: Integer',
        extend_default_fields=f'{__name__}.extend_by_name',
    )

    def view(request):
        request.session['n'] = 4

    run(site, view)
    assert (field(site, 'user_id'), field(site, 'n')) == (8, 4)
