"""The session as a dict: every method, at any time (R10)."""

import collections.abc
from concurrent.futures import ThreadPoolExecutor
import contextlib
import copy
import datetime as dt
import json
import operator
import pathlib
import pickle
import threading
import time

import orjson
from pyramid.interfaces import ISession
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.response import Response
from pyramid.scripting import prepare
import pytest
import sqlalchemy as sa
import transaction
from zope.interface.verify import verifyObject

from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import SQLASession

from .failing import on_sqlite
from .visitor import state
from .visitor import Visitor

MISSING = object()


# -- as a dict ----------------------------------------------------------------

DATA = {'a': 1, 'b': [1, 2], 'c': {'d': None}}


def _sorted_views(mapping):
    return (
        list(mapping.keys()), list(mapping.values()), list(mapping.items())
    )


def _matched(mapping):
    match mapping:
        case {'a': 1, **rest}:
            return rest
    return 'no match'


OPERATIONS = {
    'getitem': lambda d: d['a'],
    'getitem missing': lambda d: d['x'],
    'getitem unhashable': lambda d: d[[]],
    'get': lambda d: d.get('a'),
    'get missing': lambda d: d.get('x'),
    'get default': lambda d: d.get('x', 7),
    'get too many': lambda d: d.get('x', 7, 8),
    'in': lambda d: ('a' in d, 'x' in d, None in d),
    'in unhashable': lambda d: [] in d,
    'not in': lambda d: ('a' not in d, 'x' not in d),
    'len': len,
    'bool': bool,
    'not': lambda d: not d,
    'iter': list,
    'tuple': tuple,
    'set': set,
    'sorted': sorted,
    'reversed': lambda d: list(reversed(d)),
    'unpacked': lambda d: [*d],
    'dict': dict,
    'double star': lambda d: {**d, 'z': 1},
    'keywords': lambda d: (lambda **given: given)(**d),
    'views': _sorted_views,
    'keys and': lambda d: d.keys() & {'a', 'x'},
    'reversed items': lambda d: list(reversed(d.items())),
    'live view': lambda d: (view := d.keys(), d.update(n=1), list(view))[2],
    'repr': repr,
    'str': str,
    'format': lambda d: f'{d}',
    'format_map': lambda d: '{a}'.format_map(d),
    'percent': lambda d: '%(a)s' % d,  # noqa: UP031
    'equal': lambda d: d == DATA,
    'equal, reflected': lambda d: operator.eq(DATA, d),
    'equal to less': lambda d: d == {'a': 1},
    'equal to no dict': lambda d: (d == 1, d == [], operator.eq(None, d)),
    'equal to itself': lambda d: operator.eq(d, d),
    'unequal': lambda d: (d != DATA, d != {}, operator.ne(DATA, d)),
    'less': lambda d: d < DATA,
    'hash': hash,
    'or': lambda d: d | {'a': 2, 'z': 3},
    'or reflected': lambda d: {'a': 2, 'z': 3} | d,
    'or itself': lambda d: d | d,
    'or pairs': lambda d: d | [('a', 1)],
    'ror pairs': lambda d: [('a', 1)] | d,
    'plain ior': lambda d: operator.ior({'a': 2, 'z': 3}, d),
    'plain update': lambda d: (plain := {'a': 2}, plain.update(d), plain)[2],
    'chain map': lambda d: dict(collections.ChainMap({}, d)),
    'match': _matched,
    'copy': lambda d: d.copy(),
    'copy.copy': copy.copy,
    'deepcopy': copy.deepcopy,
    'pickle': lambda d: pickle.loads(pickle.dumps(d)),  # noqa: S301
    'json': json.dumps,
    # Whether there is a line in an empty one depends on the release.
    'json indented': lambda d: json.loads(json.dumps(d, indent=1)),
    'isinstance': lambda d: (
        isinstance(d, dict),
        isinstance(d, collections.abc.MutableMapping),
    ),
    'setitem': lambda d: operator.setitem(d, 'z', 1),
    'setitem unhashable': lambda d: operator.setitem(d, [], 1),
    'delitem': lambda d: operator.delitem(d, 'a'),
    'delitem missing': lambda d: operator.delitem(d, 'x'),
    'delitem unhashable': lambda d: operator.delitem(d, []),
    'setdefault': lambda d: d.setdefault('a', 5),
    'setdefault missing': lambda d: d.setdefault('z', 5),
    'setdefault none': lambda d: d.setdefault('z'),
    'setdefault list': lambda d: d.setdefault('z', []).append(1),
    'setdefault unhashable': lambda d: d.setdefault([], 1),
    'pop': lambda d: d.pop('b'),
    'pop missing': lambda d: d.pop('x'),
    'pop default': lambda d: d.pop('x', 7),
    'pop default none': lambda d: d.pop('x', None),
    'pop nothing': lambda d: d.pop(),
    'pop too many': lambda d: d.pop('x', 7, 8),
    'popitem': lambda d: d.popitem(),
    'popitem all': lambda d: [d.popitem() for _ in range(len(d) + 1)],
    'clear': lambda d: d.clear(),
    'clear twice': lambda d: (d.clear(), d.clear()),
    'update dict': lambda d: d.update({'a': 2, 'z': 3}),
    'update pairs': lambda d: d.update([('a', 2), ('z', 3)]),
    'update generator': lambda d: d.update((k, 1) for k in 'xyz'),
    'update keywords': lambda d: d.update(a=2, z=3),
    'update both': lambda d: d.update({'a': 2}, a=4, z=3),
    'update keyword self': lambda d: d.update(self=1, other=2, key=3),
    'update nothing': lambda d: d.update(),
    'update itself': lambda d: d.update(d),
    'update none': lambda d: d.update(None),
    'update number': lambda d: d.update(5),
    'update odd pairs': lambda d: d.update([('b',)]),
    'update two': lambda d: d.update({}, {}),
    'update with keys()': lambda d: d.update(collections.UserDict(z=3)),
    'ior dict': lambda d: dict(operator.ior(d, {'a': 2, 'z': 3})),
    'ior pairs': lambda d: dict(operator.ior(d, [('z', 3)])),
    'ior itself': lambda d: dict(operator.ior(d, d)),
    'ior number': lambda d: operator.ior(d, 5),
    'fromkeys': lambda d: d.fromkeys('ab', 1),
    'changed while iterated': lambda d: [d.update(z=1) for _ in d],
    'cleared and filled': lambda d: (d.clear(), d.update(n=1)),
    'deleted and set': lambda d: (
        operator.delitem(d, 'a'), operator.setitem(d, 'a', 9)
    ),
    'in place': lambda d: d['b'].append(3),
    'in place by get': lambda d: d.get('c').update(e=1),
    'in place by values': lambda d: [v.append(1) for v in d.values()
                                     if isinstance(v, list)],
    'in place by items': lambda d: dict(d.items())['c'].clear(),
    'in place by copy': lambda d: d.copy()['b'].clear(),
    'in place by dict': lambda d: dict(d)['b'].clear(),
    'in place by or': lambda d: (d | {})['b'].clear(),
    'in place by ror': lambda d: ({} | d)['b'].clear(),
    'in place by double star': lambda d: {**d}['b'].clear(),
    'in place by match': lambda d: _matched(d)['b'].clear(),
    'in place by copy.copy': lambda d: copy.copy(d)['b'].clear(),
    'in place by plain update': lambda d: (
        plain := {}, plain.update(d), plain['b'].clear()
    )[2],
    'in place by ChainMap': lambda d: collections.ChainMap(d)['b'].clear(),
    'deepcopy is apart': lambda d: copy.deepcopy(d)['b'].clear(),
    'in place, then popped': lambda d: (d['b'].append(1), d.pop('b'))[1],
    'into another key': lambda d: operator.setitem(d, 'z', d['b']),
    'shared list': lambda d: (
        operator.setitem(d, 'z', d['b']), d['z'].append(5)
    ),
}


def outcome(operation, mapping):
    """Return what *operation* gives, or the error that it raises."""
    try:
        result = operation(mapping)
    except Exception as error:
        return type(error), MISSING
    return None, result


@pytest.mark.parametrize('loaded', [False, True], ids=['first', 'loaded'])
@pytest.mark.parametrize('stored', [True, False], ids=['stored', 'new'])
@pytest.mark.parametrize('operation', OPERATIONS.values(), ids=OPERATIONS)
def test_it_is_a_dict(quick, operation, stored, loaded):
    """R10, R7: each operation does what it does on a dict, at any time."""
    # As the first look at a stored session and later; its result, its error
    # and what another request finds afterwards.
    plain = copy.deepcopy(DATA) if stored else {}
    if stored:
        quick.store(**copy.deepcopy(DATA))

    def work(session):
        if loaded:
            assert 'nothing' not in session
        # repr() hands nothing out that could be changed later.
        return (*outcome(operation, session), repr(session))

    error, result, content = quick.visit(work)
    expected_error, expected = outcome(operation, plain)
    assert error is expected_error
    assert result == expected or result is expected
    assert type(result) is type(expected)
    assert content == repr(plain)
    assert quick.content == plain


# -- changes inside of values -------------------------------------------------


def test_in_place_changes_on_each_database(visitor):
    """R7: nested changes are saved without changed()."""
    visitor.store(a=[{'b': ({1},)}], z=0)
    visitor.visit(lambda session: session['a'][0]['b'][0].add(2))
    assert visitor.content == {'a': [{'b': ({1, 2},)}], 'z': 0}


def test_a_value_that_was_kept_for_later(visitor):
    """R7: a list that a view holds is saved as it is at the end."""
    def work(session):
        mine = []
        session['a'] = mine
        session['b'] = {'deep': mine}
        mine.append(1)
        held = session['b']
        held['deep'].append(2)
        held['more'] = (mine,)

    visitor.visit(work)
    assert visitor.content == {
        'a': [1, 2], 'b': {'deep': [1, 2], 'more': ([1, 2],)}
    }


def test_a_value_that_was_kept_over_a_commit(visitor):
    """R7, T9: also after a manual commit that saved it."""
    def work(request):
        request.session['a'] = mine = []
        request.tm.commit()
        request.tm.begin()
        mine.append(1)
        request.tm.commit()
        request.tm.begin()
        mine.append(2)

    visitor.request(work)
    assert visitor.content == {'a': [1, 2]}


def test_reading_writes_nothing(visitor):
    """R7, D4: a look at nested values without a change is one SELECT."""
    when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    visitor.store(a=[{'b': ({1},)}], when=when)
    visitor.site.listen()
    visitor.visit(lambda session: (session.changed(), repr(session.copy())))
    assert visitor.site.statements.verbs == ['SELECT']


# -- threads of a view --------------------------------------------------------


def test_threads_of_a_view_that_look_first(site):
    """R2: all of them find what is stored, with one SELECT."""

    @site.view
    def fill(request):
        request.session['n'] = 1

    @site.view
    def show(request):
        session = request.session
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(session.get, 'nnnn'))

    browser = site.browser()
    browser.get('/fill')
    site.listen()
    sa.event.listen(
        site.engine, 'before_cursor_execute', lambda *args: time.sleep(0.1)
    )
    assert browser.get('/show').text == '[1, 1, 1, 1]'
    assert site.statements.verbs == ['SELECT']


def test_threads_of_a_view_that_join_the_transaction_at_once(make_site):
    """T6, D4: the record is written once, whoever was the first."""
    both = threading.Barrier(2)

    class Manager(transaction.TransactionManager):
        def get(self):
            if threading.current_thread() is not threading.main_thread():
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(1)
            return super().get()

    site = make_site(
        **{'tm.manager_hook': lambda request: Manager(explicit=True)}
    )

    @site.view
    def work(request):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(request.session.__setitem__, 'ab', [1, 2]))

    @site.view
    def fill(request):
        request.session['n'] = 1

    browser = site.browser()
    browser.get('/fill')
    browser.get('/work')
    assert site.data() == {'n': 1, 'a': 1, 'b': 2}
    assert [row['version'] for row in site.rows()] == [2]


def fill(request):
    """A view that begins a session."""
    request.session['n'] = 1


@pytest.mark.parametrize(('status', 'kept'), [
    (200, {'n': 1, 'thread': 1, 'view': 1}), (409, {'n': 1, 'thread': 1}),
])
def test_a_thread_changes_it_before_the_view(make_site, status, kept):
    """T1, T2: what the view itself changes is still in its transaction."""
    site = make_site(**{
        'tm.manager_hook': None,
        'tm.commit_veto': 'pyramid_tm.default_commit_veto',
    })

    site.views['fill'] = fill

    @site.view
    def work(request):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(request.session.__setitem__, 'thread', 1).result()
        request.session['view'] = 1
        request.response.status_int = status
        return request.response

    browser = site.browser()
    browser.get('/fill')
    browser.get('/work', status=status)
    assert site.data() == kept
    assert [row['version'] for row in site.rows()] == [2]


def test_a_thread_ends_sessions(make_site):
    """T8: what it does by session_store is committed, without the view's."""
    site = make_site(**{'tm.manager_hook': None})

    site.views['fill'] = fill

    @site.view
    def work(request):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(request.session_store.revoke_all).result()

    browser = site.browser()
    browser.get('/fill')
    assert browser.get('/work').text == '1'
    assert site.rows() == []
    assert site.engine.pool.checkedout() == 0


# -- an ISession --------------------------------------------------------------


def test_two_sessions_compare_as_dicts(site):
    """R10: a session that is not loaded yet is equal to what it holds."""
    visitor = Visitor(site)
    visitor.store(a=1)

    def work(request):
        other = site.config.registry.getUtility(ISessionFactory)(request)
        assert type(other) is SQLASession
        return (
            {**request.session} == other, request.session == other,
            other == request.session, request.session | other,
        )


    assert visitor.request(work) == (True, True, True, {'a': 1})


def test_the_interface(visitor):
    """Section 3: it is an ISession, before and after the first save."""
    for _ in range(2):
        assert visitor.visit(
            lambda session: (
                verifyObject(ISession, session), type(session) is SQLASession,
                session.update(a=1),
            )
        ) == (True, True, None)


# -- a database that is down --------------------------------------------------


def other(request):
    """A view that does not need the session."""
    return 'without a session'


def take_away(site):
    """Have no database from now on."""
    path = pathlib.Path(site.engine.url.database)
    site.engine.dispose()
    for file in path.parent.glob(path.name + '*'):
        file.rename(f'{file}.away')
    # What cannot be opened as a database.
    path.mkdir()


class Asking:
    """A security policy that asks the session who is there."""

    def __init__(self):
        self.ask = bool

    def authenticated_userid(self, request):
        self.answer = self.ask(request.session)

    def identity(self, request):
        return None

    def permits(self, request, context, permission):
        return True


def as_ujson(found):
    """Return what a library writes that makes texts of all keys."""
    return {str(key): value for key, value in dict.items(found)}


@on_sqlite
@pytest.mark.parametrize('write', [orjson.dumps, as_ujson])
def test_what_reads_past_the_methods(make_site, write):
    """R10: it is refused, and never given an empty session."""
    visitor = Visitor(make_site())
    visitor.store(a=1)

    def read(request):
        with pytest.raises(TypeError):
            write(request.session)
        assert write(dict(request.session)) == write({'a': 1})
        return 'read'

    visitor.site.views['read'] = read
    assert visitor.browser.get('/read').text == 'read'


@on_sqlite
@pytest.mark.parametrize('ask', [
    dict, len, bool, list, repr, lambda session: session == {},
    lambda session: session.copy(), lambda session: session.get('a'),
    lambda session: list(session.items()), lambda session: session | {},
    json.dumps,
], ids=range(11))
def test_a_session_of_a_database_that_is_down(make_site, ask):
    """R10, D1: empty where no exception view could answer the error."""
    policy = Asking()
    site = make_site(
        configure=lambda config: config.set_security_policy(policy)
    )
    visitor = Visitor(site)
    visitor.store(a=1)
    site.view(other)
    take_away(site)
    policy.ask = ask
    assert visitor.browser.get('/other').text == 'without a session'
    assert policy.answer == ask({})


def toolbar_tween_factory(handler, registry):
    """A toolbar: it looks at everything, above of all exception views."""

    def toolbar_tween(request):
        response = handler(request)
        registry.shown = dict(request.session)
        return response

    return toolbar_tween


@on_sqlite
def test_who_looks_after_the_page_that_says_so(make_site):
    """D1, R10: the view's error is answered; its page has an empty session."""
    # As a toolbar has.  The user was asked for in vain before.

    def away(request):
        return Response(f'away {dict(request.session)}', status=503)

    def configure(config):
        config.set_security_policy(Asking())
        config.add_exception_view(away, SessionStoreUnavailable)
        config.add_tween(
            f'{__name__}.toolbar_tween_factory',
            over='pyramid_tm.tm_tween_factory',
        )

    site = make_site(configure=configure)
    visitor = Visitor(site)
    visitor.store(a=1)
    assert site.registry.shown == {'a': 1}
    site.view(other)
    site.views['look'] = lambda request: request.session['a']
    take_away(site)
    assert visitor.browser.get('/other').text == 'without a session'
    assert site.registry.shown == {}
    site.registry.shown = None
    assert visitor.browser.get('/look', status=503).text == 'away {}'
    assert site.registry.shown == {}


def monitoring_tween_factory(handler, registry):
    """A monitor: it notes who was there, whatever became of the request."""

    def monitor(request):
        try:
            return handler(request)
        finally:
            registry.noted = request.authenticated_userid

    return monitor


def gate_tween_factory(handler, registry):
    """A gate: it asks the session whom it lets in."""

    def gate(request):
        if request.session.get('banned'):
            return Response('banned', status=403)
        return handler(request)

    return gate


def site_behind(make_site, name):
    """Return a site behind a tween, and a visitor with a session."""
    site = make_site(
        **{'tm.annotate_user': 'false'},
        configure=lambda config: (
            config.set_security_policy(Asking()),
            config.add_tween(
                f'{__name__}.{name}', over='pyramid_tm.tm_tween_factory'
            ),
        ),
    )
    visitor = Visitor(site)
    visitor.store(banned=True)
    site.view(other)
    site.views['look'] = lambda request: request.session['banned']
    return site, visitor.browser


@on_sqlite
def test_who_notes_after_the_view_who_was_there(make_site):
    """D1: its page, which is done, is sent; and the error's is, too."""
    site, browser = site_behind(make_site, 'monitoring_tween_factory')
    take_away(site)
    assert browser.get('/other').text == 'without a session'
    assert site.registry.noted is None
    browser.get('/look', status=503)


@on_sqlite
def test_who_decides_before_the_view(make_site):
    """D1, R10: hears of the error, and takes nobody for somebody else."""
    site, browser = site_behind(make_site, 'gate_tween_factory')
    browser.get('/other', status=403)
    take_away(site)
    with pytest.raises(SessionStoreUnavailable):
        browser.get('/other')


@on_sqlite
def test_a_script_hears_of_a_database_that_is_away(make_site):
    """D1: whose request has a context, but is answered by nobody."""
    site = make_site()
    visitor = Visitor(site)
    visitor.store(n=1)
    cookies = visitor.browser.cookies
    take_away(site)
    request = Request.blank('/', cookies=cookies)
    with prepare(request, site.registry) as found:
        assert found['request'].context is not None
        with pytest.raises(SessionStoreUnavailable):
            dict(found['request'].session)


# -- identity -----------------------------------------------------------------


def test_before_there_is_a_record(visitor):
    """Section 3, R1: a new session has no id, and is created now."""
    now = visitor.site.clock()
    visitor.site.listen()
    id, new, created, _, _ = visitor.visit(state)
    assert (id, new, created) == (None, True, int(now.timestamp()))
    assert type(created) is int
    assert visitor.site.statements == []


def test_of_a_record(visitor):
    """Section 3: aware UTC datetimes, created as epoch int, id as text."""
    visitor.store(a=1)
    begun = visitor.site.clock()
    visitor.site.clock.advance(hours=1)
    id, new, created, accessed, expires = visitor.visit(state)
    (row,) = visitor.site.rows()
    assert (id, new) == (str(row['id']), False)
    assert created == int(begun.timestamp())
    assert type(created) is int
    assert accessed == begun
    assert expires == begun + dt.timedelta(hours=24)
    assert accessed.utcoffset() == expires.utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize('work', [
    lambda session: session.clear(),
    lambda session: session.pop('a'),
    lambda session: session.rotate(),
], ids=['clear', 'pop', 'rotate'])
def test_created_survives(visitor, work):
    """R10: created is that of the record, whatever becomes of the data."""
    visitor.store(a=1)
    before = visitor.visit(lambda session: session.created)
    visitor.site.clock.advance(hours=1)

    def look(session):
        work(session)
        return session.created

    assert visitor.visit(look) == before
    assert visitor.visit(lambda session: session.created) == before


def test_created_of_a_new_session_does_not_move(visitor):
    """R10: it is what was said first, for good, also across ``clear()``."""
    clock = visitor.site.clock

    def begin(session):
        first = session.created
        for act in (dict, SQLASession.clear, lambda one: one.update(a=1)):
            clock.advance(seconds=5)
            act(session)
            assert session.created == first
        return first

    first = visitor.visit(begin)
    (row,) = visitor.site.rows()
    assert row['created'].timestamp() == first
    assert row['expires'] == clock() + dt.timedelta(hours=24)
    clock.advance(hours=1)
    assert visitor.visit(lambda session: session.created) == first


def test_created_after_invalidate_in_a_new_session(visitor):
    """R10: what comes after it is another session, which begins now."""

    def work(session):
        before = session.created
        visitor.site.clock.advance(minutes=1)
        session.invalidate()
        return session.created - before

    assert visitor.visit(work) == 60


@pytest.mark.parametrize('is_stored', [False, True])
@pytest.mark.parametrize('value', [
    7200, dt.timedelta(hours=2), None, 'fixed', dt.timedelta(days=90),
], ids=str)
def test_expires_after_set_expiry(make_site, is_stored, value):
    """E1: ``expires`` is what is going to be stored."""
    visitor = Visitor(make_site(absolute_timeout='30d'))
    if is_stored:
        visitor.store(a=1)
    visitor.site.clock.advance(hours=1)
    if value == 'fixed':
        value = visitor.site.clock() + dt.timedelta(days=3)

    def work(session):
        session['a'] = 2
        assert (session.expires is None) is not is_stored
        session.set_expiry(value)
        return session.expires

    said = visitor.visit(work)
    assert visitor.visit(lambda session: session.expires) == said
    (row,) = visitor.site.rows()
    assert row['expires'] == said


def test_new_after_expiry(visitor):
    """R10: new is True right after an expiry."""
    visitor.store(a=1)
    id = visitor.visit(lambda session: session.id)
    visitor.site.clock.advance(hours=24)
    assert visitor.visit(
        lambda session: (session.new, session.id, {**session})
    ) == (True, None, {})
    visitor.store(b=1)
    assert visitor.visit(lambda session: session.id) not in (id, None)


def test_new_after_invalidate(visitor):
    """R10: new is True right after invalidate(), and the dict is empty."""
    visitor.store(a=1)
    before = visitor.visit(state)
    visitor.site.clock.advance(hours=1)

    def work(session):
        session.invalidate()
        return (*state(session)[:3], dict(session))

    now = int(visitor.site.clock().timestamp())
    assert visitor.visit(work) == (None, True, now, {})
    assert visitor.site.rows() == []
    visitor.store(b=1)
    assert visitor.visit(lambda session: session.created) == now
    assert visitor.visit(lambda session: session.id) != before[0]


def test_invalidate_twice_and_at_any_time(visitor):
    """R10: invalidate() works on a new session, twice, and after writes."""
    visitor.visit(lambda session: (session.invalidate(), session.invalidate()))
    visitor.store(a=1)

    def work(session):
        session['b'] = 1
        session.invalidate()
        session['c'] = 1
        session.invalidate()
        session['d'] = 1

    visitor.visit(work)
    assert visitor.content == {'d': 1}
    assert len(visitor.site.rows()) == 1


# -- emptied ------------------------------------------------------------------

EMPTYING = {
    'del': lambda session: operator.delitem(session, 'a'),
    'pop': lambda session: session.pop('a'),
    'popitem': lambda session: session.popitem(),
    'clear': lambda session: session.clear(),
}


@pytest.mark.parametrize('work', EMPTYING.values(), ids=EMPTYING)
def test_an_emptied_session_stays(visitor, work):
    """R9: the record stays, empty, until it expires."""
    visitor.store(a=1)
    (before,) = visitor.site.rows()
    visitor.visit(work)
    assert 'Set-Cookie' not in visitor.response.headers
    (after,) = visitor.site.rows()
    assert after['id'] == before['id']
    assert visitor.site.data() == {}
    assert visitor.visit(
        lambda session: (session.new, session.id, len(session))
    ) == (False, str(before['id']), 0)
    visitor.store(b=1)
    assert [row['id'] for row in visitor.site.rows()] == [before['id']]
    visitor.visit(lambda session: session.pop('b'))
    visitor.site.clock.advance(hours=24)
    assert visitor.visit(lambda session: session.new)


def test_an_emptied_session_can_be_invalidated(visitor):
    """R9: invalidate() ends it."""
    visitor.store(a=1)
    visitor.visit(lambda session: session.clear())
    visitor.visit(lambda session: session.invalidate())
    assert visitor.site.rows() == []


@on_sqlite
@pytest.mark.parametrize('work', EMPTYING.values(), ids=EMPTYING)
def test_emptied_before_the_first_save(visitor, work):
    """R1: no row, no cookie, no statement."""
    visitor.site.listen()
    visitor.visit(lambda session: (session.update(a=1), work(session)))
    assert visitor.site.statements == []
    assert visitor.site.rows() == []
    assert 'Set-Cookie' not in visitor.response.headers


@on_sqlite
@pytest.mark.parametrize('work', [
    lambda session: session.set_expiry(60),
    lambda session: session.touch(),
    lambda session: session.rotate(),
    lambda session: session.changed(),
    lambda session: session.invalidate(),
    lambda session: session.pop_flash(),
    lambda session: (session.flash('x'), session.pop_flash()),
    lambda session: (session.get_csrf_token(), session.clear()),
], ids=range(8))
def test_nothing_in_it_is_not_stored(visitor, work):
    """R1: a session without data is not stored, whatever was called."""
    visitor.site.listen()
    visitor.visit(work)
    assert visitor.site.statements == []
    assert visitor.site.rows() == []
    assert 'Set-Cookie' not in visitor.response.headers
