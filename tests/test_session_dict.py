"""The session as a dict: every method, flash, CSRF, damage, emptiness."""

import collections.abc
from concurrent.futures import ThreadPoolExecutor
import contextlib
import copy
import datetime as dt
from decimal import Decimal
import enum
import json
import logging
import operator
import pathlib
import pickle
import threading
import time
import uuid

from pyramid.csrf import SessionCSRFStoragePolicy
from pyramid.i18n import TranslationString
from pyramid.interfaces import ISession
from pyramid.response import Response
import pytest
import sqlalchemy as sa
import transaction
from zope.interface.verify import verifyObject

from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import SessionTooLarge
from pyramid_sqlasession import SQLASession

from .services.databases import Database
from .site import Note
from .site import Site

# What the database has no part in.
sqlite = pytest.mark.parametrize('database', ['sqlite'], indirect=True)

MISSING = object()


class Shop:
    """One browser and its session."""

    def __init__(self, site):
        self.site = site
        self.browser = site.browser()

    def visit(self, work):
        """Run ``work(request.session)`` in a request; return its result."""
        return self.request(lambda request: work(request.session))

    def request(self, work):
        """Run ``work(request)`` in a request; return its result."""
        results = []

        @self.site.view
        def page(request):
            results.append(work(request))

        self.response = self.browser.get('/page')
        return results[-1]

    def store(self, **data):
        """Store a session with *data*."""
        self.visit(lambda session: session.update(data))

    @property
    def content(self):
        """What another request finds."""
        return self.visit(dict)


@pytest.fixture
def shop(site):
    """A browser on the site with the default settings."""
    return Shop(site)


@pytest.fixture(scope='module')
def shared_site(tmp_path_factory):
    """One site for many tests that need no row but their own."""
    path = tmp_path_factory.mktemp('shared') / 'test.sqlite'
    site = Site(Database('sqlite', f'sqlite:///{path}'))
    yield site
    site.close()


@pytest.fixture
def quick(shared_site):
    """A browser on the shared site, where nothing is stored yet."""
    for table in ('sessions', 'notes'):
        shared_site.execute(f'DELETE FROM {table}')
    shared_site.listen()
    return Shop(shared_site)


# -- as a dict ----------------------------------------------------------------

DATA = {'a': 1, 'b': [1, 2], 'c': {'d': None}}


def _delete(mapping, key):
    del mapping[key]


def _assign(mapping, key, value):
    mapping[key] = value


def _ior(mapping, other):
    mapping |= other
    return mapping


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
    'plain ior': lambda d: _ior({'a': 2, 'z': 3}, d),
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
    'setitem': lambda d: _assign(d, 'z', 1),
    'setitem unhashable': lambda d: _assign(d, [], 1),
    'delitem': lambda d: _delete(d, 'a'),
    'delitem missing': lambda d: _delete(d, 'x'),
    'delitem unhashable': lambda d: _delete(d, []),
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
    'ior dict': lambda d: dict(_ior(d, {'a': 2, 'z': 3})),
    'ior pairs': lambda d: dict(_ior(d, [('z', 3)])),
    'ior itself': lambda d: dict(_ior(d, d)),
    'ior number': lambda d: _ior(d, 5),
    'fromkeys': lambda d: d.fromkeys('ab', 1),
    'changed while iterated': lambda d: [d.update(z=1) for _ in d],
    'cleared and filled': lambda d: (d.clear(), d.update(n=1)),
    'deleted and set': lambda d: (_delete(d, 'a'), _assign(d, 'a', 9)),
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
    'into another key': lambda d: _assign(d, 'z', d['b']),
    'shared list': lambda d: (_assign(d, 'z', d['b']), d['z'].append(5)),
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


def test_in_place_changes_on_each_database(shop):
    """R7: nested changes are saved without changed()."""
    shop.store(a=[{'b': ({1},)}], z=0)
    shop.visit(lambda session: session['a'][0]['b'][0].add(2))
    assert shop.content == {'a': [{'b': ({1, 2},)}], 'z': 0}


def test_a_value_that_was_kept_for_later(shop):
    """R7: a list that a view holds is saved as it is at the end."""
    def work(session):
        mine = []
        session['a'] = mine
        session['b'] = {'deep': mine}
        mine.append(1)
        held = session['b']
        held['deep'].append(2)
        held['more'] = (mine,)

    shop.visit(work)
    assert shop.content == {
        'a': [1, 2], 'b': {'deep': [1, 2], 'more': ([1, 2],)}
    }


def test_a_value_that_was_kept_over_a_commit(shop):
    """R7, T9: also after a manual commit that saved it."""
    def work(request):
        request.session['a'] = mine = []
        request.tm.commit()
        request.tm.begin()
        mine.append(1)
        request.tm.commit()
        request.tm.begin()
        mine.append(2)

    shop.request(work)
    assert shop.content == {'a': [1, 2]}


def test_reading_writes_nothing(shop):
    """R7, D4: a look at nested values without a change is one SELECT."""
    shop.store(a=[{'b': ({1},)}], when=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    shop.site.listen()
    shop.visit(lambda session: (session.changed(), repr(session.copy())))
    assert shop.site.statements.verbs == ['SELECT']


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


def test_two_sessions_compare_as_dicts(site):
    """R10: a session that is not loaded yet is equal to what it holds."""
    shop = Shop(site)
    shop.store(a=1)

    def work(request):
        other = site.config.registry.getUtility(ISessionFactory)(request)
        assert type(other) is SQLASession
        return (
            {**request.session} == other, request.session == other,
            other == request.session, request.session | other,
        )

    from pyramid.interfaces import ISessionFactory

    assert shop.request(work) == (True, True, True, {'a': 1})


def test_the_interface(shop):
    """Section 3: it is an ISession, before and after the first save."""
    for _ in range(2):
        assert shop.visit(
            lambda session: (
                verifyObject(ISession, session), type(session) is SQLASession,
                session.update(a=1),
            )
        ) == (True, True, None)


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


@sqlite
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
    shop = Shop(site)
    shop.store(a=1)
    site.view(other)
    take_away(site)
    policy.ask = ask
    assert shop.browser.get('/other').text == 'without a session'
    assert policy.answer == ask({})


def toolbar_tween_factory(handler, registry):
    """A toolbar: it looks at everything, above of all exception views."""

    def toolbar_tween(request):
        response = handler(request)
        registry.shown = dict(request.session)
        return response

    return toolbar_tween


@sqlite
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
    shop = Shop(site)
    shop.store(a=1)
    assert site.registry.shown == {'a': 1}
    site.view(other)
    site.views['look'] = lambda request: request.session['a']
    take_away(site)
    assert shop.browser.get('/other').text == 'without a session'
    assert site.registry.shown == {}
    site.registry.shown = None
    assert shop.browser.get('/look', status=503).text == 'away {}'
    assert site.registry.shown == {}


# -- types, through the database ----------------------------------------------

class Rank(enum.IntEnum):
    """An IntEnum."""

    FIRST = 1


EVERY_TYPE = {
    'str': 'ü\U0001f36a\x00\r\n', 'empty': '', 'big': -(2**300), 'int': 2**63,
    'float': -0.0, 'inf': float('inf'), 'small': 5e-324, 'bool': True,
    'none': None, 'bytes': b'\x00\xff',
    'naive': dt.datetime(2026, 11, 23, 1, 2, 3, 4),
    'aware': dt.datetime(
        2026, 11, 23, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5.5))
    ),
    'date': dt.date.min, 'time': dt.time(1, 2, 3, 4),
    'timedelta': dt.timedelta(-1, 2, 3), 'decimal': Decimal('1.10'),
    'uuid': uuid.UUID(int=7), 'list': [1, [2]], 'tuple': (1, (2,)),
    'set': {1, 'a', (2,)}, 'dict': {'$int': {'$set': [1]}},
    '$datetime': 'x', 'Ключ \U0001f36a': 1, '': 2, 'a\x00b': 3,
    'long': 'x' * 100_000,
}


def _spelt(value):
    """Return a ``repr`` with types; a set has none of its own order."""
    if isinstance(value, set):
        return sorted(map(repr, value))
    return repr(value)


def test_every_type_comes_back(shop):
    """R6: through each database, also NUL, emoji and beyond 64 KiB."""
    shop.store(**EVERY_TYPE)
    content = shop.content
    assert content == EVERY_TYPE
    assert {k: _spelt(v) for k, v in content.items()} == {
        k: _spelt(v) for k, v in EVERY_TYPE.items()
    }
    assert content['aware'].utcoffset() == dt.timedelta(hours=5.5)


def test_subclasses_come_back_as_their_base(shop):
    """R6: TranslationString as str, IntEnum as int."""
    shop.store(t=TranslationString('id', default='text'), r=Rank.FIRST)
    content = shop.content
    assert content == {'t': 'id', 'r': 1}
    assert {type(value) for value in content.values()} == {str, int}


UNSTORABLE = {
    'object': (object(), "session['bad'][1]"),
    'surrogate': ('\ud800', "session['bad'][1]"),
    'key': ({1: 2}, "session['bad'][1][1]"),
    'lock': (threading.Lock(), "session['bad'][1]"),
    'generator': ((n for n in ()), "session['bad'][1]"),
}


@pytest.mark.parametrize(
    ('value', 'path'), UNSTORABLE.values(), ids=UNSTORABLE
)
@pytest.mark.parametrize('stored', [True, False], ids=['stored', 'new'])
def test_what_cannot_be_stored(quick, value, path, stored):
    """R6: raises with the key path, in the view's transaction."""
    if stored:
        quick.store(a=1)
    before = quick.site.rows()

    def work(request):
        request.dbsession.add(Note(text='part of it'))
        request.session['good'] = 1
        request.session['bad'] = [0, value]

    with pytest.raises(SessionNotSerializable) as caught:
        quick.request(work)
    assert caught.value.path == path
    assert quick.site.notes() == []
    assert quick.site.rows() == before


def test_a_cycle_cannot_be_stored(shop):
    """R6: nor can a list that contains itself."""
    def work(session):
        session['a'] = [1]
        session['a'].append(session['a'])

    with pytest.raises(SessionNotSerializable, match='contains itself'):
        shop.visit(work)
    assert shop.site.rows() == []


@pytest.mark.parametrize('key', [1, None, b'a', (1,), True, 1.5])
@pytest.mark.parametrize('stored', [True, False], ids=['stored', 'new'])
def test_keys_must_be_text(quick, key, stored):
    """R6: a key that is no str is named."""
    if stored:
        quick.store(a=1)
    with pytest.raises(SessionNotSerializable) as caught:
        quick.visit(lambda session: _assign(session, key, 1))
    assert caught.value.path == f'session[{key!r}]'


@pytest.mark.parametrize('key', ['_fh_', '_f_', '_csrft_', '$', 'self'])
@pytest.mark.parametrize('value', ['text', {'_f_': 1}, 7, (1,)], ids=repr)
def test_no_key_is_lost(quick, key, value):
    """R6, R10: each key is the application's, or says that it is not."""
    try:
        quick.visit(lambda session: _assign(session, key, value))
    except (SessionNotSerializable, KeyError, ValueError):
        return
    assert quick.content == {key: value}


@sqlite
@pytest.mark.parametrize('kind', sorted(UNSTORABLE))
def test_an_exception_view_after_what_cannot_be_stored(make_site, kind):
    """T3, R6: the exception view works, whatever the view has put in."""
    def configure(config):
        config.add_exception_view(sorry, ZeroDivisionError)

    def sorry(error, request):
        request.session.flash('sorry')
        return Response(repr(sorted(request.session)))

    site = make_site(configure=configure)
    shop = Shop(site)
    shop.store(a=1)

    def work(request):
        request.session['bad'] = [0, UNSTORABLE[kind][0]]
        raise ZeroDivisionError

    @site.view
    def page(request):
        work(request)

    assert shop.browser.get('/page').text == "['_f_', 'a']"
    assert shop.content == {'a': 1, '_f_': ['sorry']}


@pytest.mark.parametrize('kind', sorted(UNSTORABLE))
def test_a_savepoint_after_what_cannot_be_stored(quick, kind):
    """T9: a savepoint is no reason to fail; what is taken out is gone."""
    def work(request):
        request.session['bad'] = UNSTORABLE[kind][0]
        request.tm.savepoint()
        del request.session['bad']
        request.session['good'] = 1

    quick.request(work)
    assert quick.content == {'good': 1}


def test_too_large(make_site):
    """Section 2: above max_size nothing is stored, up to it all is."""
    shop = Shop(make_site(max_size='1KiB'))
    shop.store(a='x' * 1016)
    with pytest.raises(SessionTooLarge) as caught:
        shop.store(b='x')
    assert caught.value.limit == 1024
    assert shop.content == {'a': 'x' * 1016}
    with pytest.raises(SessionTooLarge):
        shop.store(a='ü' * 600)
    with pytest.raises(SessionTooLarge):
        Shop(shop.site).store(a='x' * 1100)
    assert len(shop.site.rows()) == 1


# -- identity -----------------------------------------------------------------

def state(session):
    """Return what the session says of itself."""
    return (
        session.id, session.new, session.created, session.accessed,
        session.expires,
    )


def test_before_there_is_a_record(shop):
    """Section 3, R1: a new session has no id, and is created now."""
    now = shop.site.clock()
    shop.site.listen()
    id, new, created, _, _ = shop.visit(state)
    assert (id, new, created) == (None, True, int(now.timestamp()))
    assert type(created) is int
    assert shop.site.statements == []


def test_of_a_record(shop):
    """Section 3: aware UTC datetimes, created as epoch int, id as text."""
    shop.store(a=1)
    begun = shop.site.clock()
    shop.site.clock.advance(hours=1)
    id, new, created, accessed, expires = shop.visit(state)
    (row,) = shop.site.rows()
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
def test_created_survives(shop, work):
    """R10: created is that of the record, whatever becomes of the data."""
    shop.store(a=1)
    before = shop.visit(lambda session: session.created)
    shop.site.clock.advance(hours=1)

    def look(session):
        work(session)
        return session.created

    assert shop.visit(look) == before
    assert shop.visit(lambda session: session.created) == before


def test_new_after_expiry(shop):
    """R10: new is True right after an expiry."""
    shop.store(a=1)
    id = shop.visit(lambda session: session.id)
    shop.site.clock.advance(hours=24)
    assert shop.visit(lambda session: (session.new, session.id, {**session})) \
        == (True, None, {})
    shop.store(b=1)
    assert shop.visit(lambda session: session.id) not in (id, None)


def test_new_after_invalidate(shop):
    """R10: new is True right after invalidate(), and the dict is empty."""
    shop.store(a=1)
    before = shop.visit(state)
    shop.site.clock.advance(hours=1)

    def work(session):
        session.invalidate()
        return (*state(session)[:3], dict(session))

    now = int(shop.site.clock().timestamp())
    assert shop.visit(work) == (None, True, now, {})
    assert shop.site.rows() == []
    shop.store(b=1)
    assert shop.visit(lambda session: session.created) == now
    assert shop.visit(lambda session: session.id) != before[0]


def test_invalidate_twice_and_at_any_time(shop):
    """R10: invalidate() works on a new session, twice, and after writes."""
    shop.visit(lambda session: (session.invalidate(), session.invalidate()))
    shop.store(a=1)

    def work(session):
        session['b'] = 1
        session.invalidate()
        session['c'] = 1
        session.invalidate()
        session['d'] = 1

    shop.visit(work)
    assert shop.content == {'d': 1}
    assert len(shop.site.rows()) == 1


# -- emptied ------------------------------------------------------------------

EMPTYING = {
    'del': lambda session: _delete(session, 'a'),
    'pop': lambda session: session.pop('a'),
    'popitem': lambda session: session.popitem(),
    'clear': lambda session: session.clear(),
}


@pytest.mark.parametrize('work', EMPTYING.values(), ids=EMPTYING)
def test_an_emptied_session_stays(shop, work):
    """R9: the record stays, empty, until it expires."""
    shop.store(a=1)
    (before,) = shop.site.rows()
    shop.visit(work)
    assert 'Set-Cookie' not in shop.response.headers
    (after,) = shop.site.rows()
    assert after['id'] == before['id']
    assert shop.site.data() == {}
    assert shop.visit(
        lambda session: (session.new, session.id, len(session))
    ) == (False, str(before['id']), 0)
    shop.store(b=1)
    assert [row['id'] for row in shop.site.rows()] == [before['id']]
    shop.visit(lambda session: session.pop('b'))
    shop.site.clock.advance(hours=24)
    assert shop.visit(lambda session: session.new)


def test_an_emptied_session_can_be_invalidated(shop):
    """R9: invalidate() ends it."""
    shop.store(a=1)
    shop.visit(lambda session: session.clear())
    shop.visit(lambda session: session.invalidate())
    assert shop.site.rows() == []


@sqlite
@pytest.mark.parametrize('work', EMPTYING.values(), ids=EMPTYING)
def test_emptied_before_the_first_save(shop, work):
    """R1: no row, no cookie, no statement."""
    shop.site.listen()
    shop.visit(lambda session: (session.update(a=1), work(session)))
    assert shop.site.statements == []
    assert shop.site.rows() == []
    assert 'Set-Cookie' not in shop.response.headers


@sqlite
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
def test_nothing_in_it_is_not_stored(shop, work):
    """R1: a session without data is not stored, whatever was called."""
    shop.site.listen()
    shop.visit(work)
    assert shop.site.statements == []
    assert shop.site.rows() == []
    assert 'Set-Cookie' not in shop.response.headers


# -- flash --------------------------------------------------------------------

@pytest.mark.parametrize('queue', ['', 'ü'])
def test_flash(shop, queue):
    """R10: as in Pyramid, per queue, under _f_<queue>."""
    shop.visit(lambda session: session.flash('one', queue))
    shop.visit(lambda session: session.flash('two', queue=queue))
    assert shop.content == {f'_f_{queue}': ['one', 'two']}
    assert shop.visit(
        lambda session: session.peek_flash(queue)
    ) == ['one', 'two']
    assert shop.visit(
        lambda session: session.pop_flash(queue)
    ) == ['one', 'two']
    assert shop.visit(lambda session: session.pop_flash(queue)) == []
    assert shop.visit(lambda session: session.peek_flash(queue)) == []
    assert shop.content == {}


def test_flash_without_duplicates(shop):
    """R10: allow_duplicate=False, in one request and over several."""
    for _ in range(2):
        shop.visit(lambda session: [
            session.flash('one', allow_duplicate=False) for _ in range(2)
        ])
    shop.visit(lambda session: session.flash('one'))
    assert shop.visit(lambda session: session.pop_flash()) == ['one', 'one']


@pytest.mark.parametrize(
    'message', EVERY_TYPE.values(), ids=EVERY_TYPE
)
def test_flash_takes_any_storable_message(quick, message):
    """R10: not only text, also without duplicates."""
    quick.visit(lambda session: session.flash(message))
    quick.visit(lambda session: session.flash(message, 'q', False))
    quick.visit(lambda session: session.flash(message, 'q', False))
    (popped,) = quick.visit(lambda session: session.pop_flash())
    assert popped == message
    assert _spelt(popped) == _spelt(message)
    assert len(quick.visit(lambda session: session.pop_flash('q'))) == 1


def test_flash_in_one_request(shop):
    """R10: flashed, popped and flashed again before the save."""
    def work(session):
        session.flash('a')
        assert session.pop_flash() == ['a']
        session.flash('b')
        assert session.peek_flash() == ['b']
        assert session.pop_flash() == ['b']
        assert session.pop_flash() == []
        session.flash('c')

    shop.visit(lambda session: session.flash('old'))
    shop.visit(lambda session: session.pop_flash())
    shop.visit(work)
    assert shop.visit(lambda session: session.pop_flash()) == ['c']


def test_popping_an_absent_queue_writes_nothing(shop):
    """R10: it is a look, no change."""
    shop.store(a=1)
    shop.site.listen()
    assert shop.visit(lambda session: session.pop_flash('x')) == []
    assert shop.site.statements.verbs == ['SELECT']


def test_flash_queues_as_keys(shop):
    """R10: whoever works on the keys themselves works on the queues."""
    def work(session):
        session['_f_'] = ['a']
        session['_f_'].append('b')
        session.setdefault('_f_q', []).append('c')

    shop.visit(work)
    assert shop.visit(lambda session: session.pop_flash()) == ['a', 'b']
    shop.visit(lambda session: session['_f_q'].insert(0, 'first'))
    assert shop.visit(lambda session: session.peek_flash('q')) == [
        'first', 'c'
    ]
    shop.visit(lambda session: session['_f_q'].pop(0))
    assert shop.content == {'_f_q': ['c']}
    shop.visit(lambda session: _delete(session, '_f_q'))
    assert shop.content == {}


def test_popped_and_flashed_again_while_another_pops(shop, stage):
    """C6: the message that was flashed again is not the one that was shown."""
    shop.visit(lambda session: session.flash('hi'))

    @shop.site.view
    def again(request):
        assert request.session.pop_flash() == ['hi']
        request.session.flash('hi')
        stage.reach('flashed')

    running = stage.run(shop.site.browser(like=shop.browser).get, '/again')
    stage.wait('flashed')
    assert shop.visit(lambda session: session.pop_flash()) == ['hi']
    stage.let('flashed')
    running.result()
    assert shop.visit(lambda session: session.pop_flash()) == ['hi']


def test_a_failed_request_shows_its_flash_messages_again(shop):
    """T2: what was popped in a request that failed is still there."""
    shop.visit(lambda session: session.flash('a'))

    def work(session):
        assert session.pop_flash() == ['a']
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shop.visit(work)
    assert shop.visit(lambda session: session.pop_flash()) == ['a']


# -- CSRF ---------------------------------------------------------------------

def test_csrf_token_stays(shop):
    """R10: get_csrf_token() is one token, kept under _csrft_."""
    token = shop.visit(lambda session: session.get_csrf_token())
    assert len(token) >= 32
    assert shop.visit(
        lambda session: [session.get_csrf_token() for _ in range(2)]
    ) == [token, token]
    assert shop.content == {'_csrft_': token}


def test_csrf_token_of_a_stored_session(shop):
    """C6: the first token of a session is the same in each attempt."""
    shop.store(a=1)
    token = shop.visit(lambda session: session.get_csrf_token())
    assert shop.content == {'a': 1, '_csrft_': token}
    shop.visit(lambda session: session.pop('_csrft_'))
    assert shop.visit(lambda session: session.get_csrf_token()) == token


def test_new_csrf_token(shop):
    """R10: new_csrf_token() is another one, from then on."""
    first = shop.visit(lambda session: session.get_csrf_token())
    second = shop.visit(lambda session: session.new_csrf_token())
    assert second != first
    assert shop.visit(lambda session: session.get_csrf_token()) == second


def test_csrf_token_after_a_login_and_a_logout(shop):
    """Section 3: rotate() and invalidate() bring another token."""
    tokens = [shop.visit(lambda session: session.get_csrf_token())]

    def work(session):
        session.rotate()
        assert '_csrft_' not in session
        tokens.append(session.get_csrf_token())

    shop.visit(work)
    shop.visit(lambda session: session.rotate())
    assert '_csrft_' not in shop.content
    tokens.append(shop.visit(lambda session: session.get_csrf_token()))

    def leave(session):
        session.invalidate()
        tokens.append(session.get_csrf_token())

    shop.visit(leave)
    assert len(set(tokens)) == 4
    assert shop.visit(lambda session: session.get_csrf_token()) == tokens[-1]


def test_csrf_token_of_a_new_visitor_who_logs_in(shop):
    """Section 3: rotate() brings another one there, too."""

    def work(session):
        before = session.get_csrf_token()
        session.rotate()
        return before, session.get_csrf_token()

    before, after = shop.visit(work)
    assert before != after
    assert shop.visit(lambda session: session.get_csrf_token()) == after


def test_csrf_tokens_differ_between_browsers(site):
    """C6: derived from the secret, so each session has its own."""
    tokens = {
        Shop(site).visit(lambda session: session.get_csrf_token())
        for _ in range(5)
    }
    assert len(tokens) == 5


@pytest.mark.parametrize('value', [None, 7, '', [], b'x'], ids=repr)
def test_a_csrf_token_that_is_none(quick, value):
    """R10: what cannot be a token is replaced by one."""
    quick.store(_csrft_=value)
    token = quick.visit(lambda session: session.get_csrf_token())
    assert isinstance(token, str)
    assert len(token) >= 32
    assert quick.visit(lambda session: session.get_csrf_token()) == token


def test_pyramids_csrf_check(make_site):
    """R10: Pyramid's own views with require_csrf work with it."""
    def configure(config):
        config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
        config.add_route('form', '/form/')
        config.add_view(
            lambda request: Response('done'), route_name='form',
            require_csrf=True, request_method='POST',
        )

    shop = Shop(make_site(configure=configure))
    token = shop.visit(lambda session: session.get_csrf_token())
    post = shop.browser.post
    assert post('/form/', {'csrf_token': token}).text == 'done'
    assert post('/form/', {'csrf_token': 'x'}, status=400)
    shop.visit(lambda session: session.rotate())
    assert post('/form/', {'csrf_token': token}, status=400)


# -- damaged rows -------------------------------------------------------------

GARBAGE = [
    '', ' ', 'null', '[]', '"text"', '7', '{', '{"a":}', 'x' * 1000,
    '{"a":1}}', '{"a":{"$nonsense":1}}', '{"a":{"$int":"1e9"}}',
    '{"a":{"$set":[[1]]}}', '{"a":{"$datetime":"soon"}}',
    '{"a":{"$timedelta":[1e300]}}', 'base64:', 'base64:!!', 'base64:AAAA',
    'base64:eyJh', '[' * 100_000, '{"$dict":[]}', '{"$tuple":[1]}',
    'gAAAAABl', '\x80\x04}\x94.', "{'a': 1}", '{"a":NaN}',
    '{"a":' + '9' * 5000 + '}',
]


def damage(site, **values):
    """Set columns of all records."""
    table = site.application.records.table
    with site.outside.begin() as connection:
        connection.execute(table.update().values(**values))


def is_in_log(caplog):
    """Tell whether the log has an error about the session."""
    return any(
        record.levelno >= logging.ERROR
        and record.name.startswith('pyramid_sqlasession')
        for record in caplog.records
    )


def check_damaged(shop, caplog, is_dead=False):
    """Assert R8 for the only record, and remove it.

    :param is_dead: nothing says that the cookie belongs to the record.
    """
    before = raw_rows(shop.site)
    # A read: empty, an error in the log, the row as it was.
    content = shop.visit(
        lambda session: (dict(session), session.new, session.id)
    )
    assert content == ({}, True, None)
    assert 'Set-Cookie' not in shop.response.headers
    assert is_dead or is_in_log(caplog)
    shop.site.clock.advance(minutes=2)
    shop.visit(lambda session: session.get('a'))
    assert raw_rows(shop.site) == before
    # A write: a new session beside it.
    other = Shop(shop.site)
    other.browser = shop.site.browser(like=shop.browser)
    other.store(b=2)
    assert other.content == {'b': 2}
    assert other.visit(lambda session: session.new) is False
    assert len(raw_rows(shop.site)) == 2
    assert all(row in raw_rows(shop.site) for row in before)
    # invalidate(): removed, and nothing else.
    shop.visit(lambda session: session.invalidate())
    rows = raw_rows(shop.site)
    if is_dead:
        assert len(rows) == 2
        return
    assert len(rows) == 1
    assert not any(row in rows for row in before)
    assert 'Max-Age=0' in shop.response.headers['Set-Cookie']
    assert other.content == {'b': 2}


def raw_rows(site):
    """Return the records as the driver gives them, whatever is in them."""
    columns = site.application.records.table.columns.keys()
    text = f'SELECT {", ".join(columns)} FROM sessions ORDER BY id'
    with site.outside.connect() as connection:
        # Types of the driver, so that nothing is interpreted.
        rows = connection.exec_driver_sql(text)
        return [tuple(map(repr, row)) for row in rows]


@pytest.mark.parametrize('data', GARBAGE, ids=lambda text: ascii(text)[:20])
def test_data_that_cannot_be_decoded(quick, caplog, data):
    """R8: empty with an error in the log; never overwritten; removable."""
    quick.store(a=1)
    damage(quick.site, data=data)
    check_damaged(quick, caplog)


def test_damage_on_each_database(shop, caplog):
    """R8: as above, on each database."""
    shop.store(a=1)
    damage(shop.site, data='{"a":')
    check_damaged(shop, caplog)


def test_damaged_and_rotated(shop, caplog):
    """R8: a login with a damaged record starts a session beside it."""
    shop.store(a=1)
    damage(shop.site, data='garbage')

    def work(session):
        session.rotate()
        session['user'] = 1

    shop.visit(work)
    assert shop.content == {'user': 1}
    assert sorted(row['data'] for row in shop.site.rows()) == sorted(
        ['garbage', '{"user":1}']
    )


def test_damaged_and_begun_anew(shop):
    """R8: invalidate() and a write in one request: one row, the new one."""
    shop.store(a=1)
    damage(shop.site, data='garbage')
    shop.visit(lambda session: (session.invalidate(), session.update(n=1)))
    assert shop.content == {'n': 1}
    assert len(shop.site.rows()) == 1


def test_damaged_beside_a_request_in_flight(shop, stage):
    """R8: damaged between load and save: never overwritten."""
    shop.store(a=1)

    @shop.site.view
    def slow(request):
        request.session['n'] = 1
        stage.reach('changed')

    other = shop.site.browser(like=shop.browser)
    running = stage.run(other.get, '/slow')
    stage.wait('changed')
    damage(shop.site, data='garbage', version=7)
    stage.let('changed')
    assert running.result().status_int == 200
    assert {'garbage', '{"n":1}'} == {row['data'] for row in shop.site.rows()}


def test_damage_that_only_touched_the_text(shop, stage):
    """R8: nor if the version is still the one that was loaded."""
    # Nobody promises this; but the response must not fail.
    shop.store(a=1)

    @shop.site.view
    def slow(request):
        request.session['n'] = 1
        stage.reach('changed')

    running = stage.run(shop.site.browser(like=shop.browser).get, '/slow')
    stage.wait('changed')
    damage(shop.site, data='garbage')
    stage.let('changed')
    assert running.result().status_int == 200


@pytest.fixture
def lax(make_site):
    """A browser on a site whose table takes NULL in every column."""
    site = make_site(create=False)
    table = site.application.records.table
    statement = sa.schema.CreateTable(table).compile(site.outside)
    # MariaDB's and PostgreSQL's keys are NOT NULL by themselves.
    site.execute(str(statement).replace(' NOT NULL', ''))
    Note.__table__.create(site.outside)
    site.listen()
    return Shop(site)


NULLABLE = (
    'data', 'version', 'created', 'started', 'accessed', 'rotated',
)


@sqlite
@pytest.mark.parametrize('column', NULLABLE)
def test_null_where_a_value_belongs(lax, caplog, column):
    """R8: NULL in a column is damage, never a 500."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    check_damaged(lax, caplog)


@sqlite
@pytest.mark.parametrize('column', ['secret_hash', 'expires'])
def test_null_that_makes_the_cookie_unknown(lax, caplog, column):
    """R8, R3: without hash or expiry the cookie opens nothing."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    check_damaged(lax, caplog, is_dead=True)


@sqlite
@pytest.mark.parametrize('column', ['sweep', 'lifetime', 'retired'])
def test_null_that_does_no_harm(lax, column):
    """R8: the session works; nobody needs these to read it."""
    lax.store(a=1)
    lax.site.execute(f'UPDATE sessions SET {column} = NULL')
    lax.site.clock.advance(minutes=2)
    assert lax.content == {'a': 1}
    lax.store(b=2)
    assert lax.content == {'a': 1, 'b': 2}


def test_all_null(lax, caplog):
    """R8: a row of which only id, hash and expiry are left."""
    lax.store(a=1)
    lax.site.execute(
        'UPDATE sessions SET '
        + ', '.join(f'{column} = NULL' for column in NULLABLE)
    )
    check_damaged(lax, caplog)


@pytest.mark.parametrize('column', [
    'data', 'version', 'created', 'started', 'accessed', 'rotated',
    'lifetime', 'retired', 'secret_hash', 'expires', 'sweep',
])
@pytest.mark.parametrize(
    'value',
    ['garbage', '', 7, -1, 1.5, 2**62, b'\x00\xff', b'x' * 41, 'x' * 41,
     '9999-99-99 99:99:99.999999', '0000-00-00 00:00:00'],
    ids=repr,
)
def test_sqlite_keeps_anything_in_any_column(quick, caplog, column, value):
    """R8: whatever an SQLite column holds, no request fails for it."""
    quick.store(a=1)
    quick.site.execute(f'UPDATE sessions SET {column} = :value', value=value)
    before = raw_rows(quick.site)

    def work(session):
        return state(session)[1], dict(session)

    new, content = quick.visit(work)
    assert content == ({} if new else {'a': 1})
    quick.site.clock.advance(minutes=2)
    quick.visit(work)
    if new:
        assert raw_rows(quick.site) == before
    quick.store(b=2)
    assert quick.content == ({'b': 2} if new else {'a': 1, 'b': 2})
    quick.visit(lambda session: session.rotate())
    quick.visit(lambda session: session.invalidate())
    assert len(raw_rows(quick.site)) == int(new)


@sqlite
@pytest.mark.parametrize('column', ['created', 'started', 'accessed'])
def test_a_date_that_is_none(shop, caplog, column):
    """R8: damage, as text that is no JSON: told, and removable."""
    shop.store(a=1)
    shop.site.execute(f"UPDATE sessions SET {column} = 'garbage'")
    check_damaged(shop, caplog)


RETIRED = [
    b'x', b'\x00' * 41, b'\xff' * 41, b'\x7f' * 40 + b'\x01',
    b'\x80' + b'\x00' * 39 + b'\x01', b'\x7f' * 40 + b'\x02', b'x' * 1024,
]


def check_retired(shop, retired, work):
    """Assert that a damaged list of old tokens does no harm."""
    shop.store(a=1)
    old = Shop(shop.site)
    old.browser = shop.site.browser(like=shop.browser)
    shop.visit(lambda session: session.rotate())
    damage(shop.site, retired=retired)
    old.visit(work)
    shop.visit(work)
    assert shop.content == {'a': 1}


@pytest.mark.parametrize('retired', RETIRED, ids=lambda raw: repr(raw)[:30])
@pytest.mark.parametrize('work', [list, SQLASession.rotate])
def test_a_damaged_list_of_old_tokens(quick, retired, work):
    """R8, C5: it counts as empty, for old tokens and at a rotation."""
    check_retired(quick, retired, work)


def test_a_damaged_list_of_old_tokens_on_each_database(shop):
    """R8, C5: as above, on each database."""
    check_retired(shop, RETIRED[3], SQLASession.rotate)


DATES = ('created', 'started', 'accessed', 'expires', 'rotated', 'sweep')


def check_date(site, column, write):
    """Return the error of the requests on a record with a strange date."""
    shop = Shop(site)
    shop.store(a=1)
    write(column)
    try:
        for _ in range(2):
            assert shop.content in ({}, {'a': 1})
            site.clock.advance(minutes=2)
        shop.store(b=1)
        assert shop.content in ({'b': 1}, {'a': 1, 'b': 1})
        shop.visit(lambda session: session.invalidate())
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    finally:
        site.execute('DELETE FROM sessions')
    return 'no error'


@pytest.mark.parametrize('database', ['postgresql'], indirect=True)
@pytest.mark.parametrize('value', ['infinity', '-infinity', '294276-01-01'])
def test_moments_that_python_does_not_know(site, value):
    """R8: PostgreSQL's dates beyond Python's are damage, never a 500."""
    def write(column):
        site.execute(f"UPDATE sessions SET {column} = '{value}'")

    found = {column: check_date(site, column, write) for column in DATES}
    assert found == dict.fromkeys(DATES, 'no error')


@pytest.mark.parametrize('database', ['mariadb'], indirect=True)
def test_zero_dates(site):
    """R8: MariaDB's zero dates are damage, never a 500."""
    def write(column):
        with site.outside.connect() as connection:
            # Of a connection that goes nowhere else.
            connection.detach()
            connection.execute(sa.text("SET sql_mode = ''"))
            connection.execute(
                sa.text(f"UPDATE sessions SET {column} = '0000-00-00'")
            )
            connection.commit()

    found = {column: check_date(site, column, write) for column in DATES}
    assert found == dict.fromkeys(DATES, 'no error')


# -- serializers of the application -------------------------------------------

class Reversed:
    """JSON backwards: not UTF-8, and no text that a column would take."""

    def dumps(self, data):
        return b'\xff\x00' + json.dumps(data).encode()[::-1]

    def loads(self, raw):
        if not raw.startswith(b'\xff\x00'):
            raise KeyError('this is not mine')
        return json.loads(raw[:1:-1])


class Texty:
    """Bytes that look like the mark of binary data."""

    def dumps(self, data):
        return b'base64:' + json.dumps(data).encode()

    def loads(self, raw):
        assert raw.startswith(b'base64:')
        return json.loads(raw[7:])


class Nully:
    """UTF-8 with a NUL, which PostgreSQL's text has not."""

    def dumps(self, data):
        return b'\x00' + json.dumps(data, ensure_ascii=False).encode()

    def loads(self, raw):
        assert raw[:1] == b'\x00'
        return json.loads(raw[1:])


reversed_json = Reversed()


@pytest.mark.parametrize('given', [
    f'{__name__}.reversed_json', f'{__name__}:reversed_json',
    f'{__name__}.Texty', Texty(), Nully(), reversed_json,
], ids=['name', 'colon', 'class', 'base64', 'nul', 'object'])
def test_a_serializer_of_the_application(make_site, given):
    """Section 2: an object with dumps and loads of bytes, by its name."""
    shop = Shop(make_site(serializer=given))
    shop.store(a=['ü\U0001f36a'], b=1)
    shop.visit(lambda session: session['a'].append(1))
    shop.visit(lambda session: session.flash('hi'))
    shop.visit(lambda session: session.pop('b'))
    assert shop.content == {'a': ['ü\U0001f36a', 1], '_f_': ['hi']}
    assert shop.visit(lambda session: session.pop_flash()) == ['hi']
    assert shop.content == {'a': ['ü\U0001f36a', 1]}
    shop.site.listen()
    shop.visit(lambda session: session['a'])
    assert shop.site.statements.verbs == ['SELECT']


@pytest.mark.parametrize(
    ('writer', 'reader'),
    [('json', reversed_json), (reversed_json, 'json'), ('json', Nully()),
     (Texty(), reversed_json), (Nully(), 'json')],
    ids=['json-bytes', 'bytes-json', 'json-nul', 'base64-bytes', 'nul-json'],
)
def test_rows_of_a_foreign_serializer(make_site, caplog, writer, reader):
    """R8: rows that another serializer wrote are damage."""
    before = Shop(make_site(serializer=writer))
    before.store(a=1)
    shop = Shop(make_site(serializer=reader))
    shop.browser = shop.site.browser(like=before.browser)
    check_damaged(shop, caplog)


class Strange:
    """A serializer whose loads returns what it likes."""

    def __init__(self, answer):
        self.answer = answer

    def dumps(self, data):
        return json.dumps(data).encode()

    def loads(self, raw):
        return self.answer


@pytest.mark.parametrize(
    'answer', [None, [], 'text', b'', 7, [('a', 1)]], ids=repr
)
@sqlite
def test_a_serializer_that_gives_no_dict(make_site, caplog, answer):
    """R8: anything but a dict is damage."""
    shop = Shop(make_site(serializer='json'))
    shop.store(a=1)
    strange = Shop(make_site(serializer=Strange(answer)))
    strange.browser = strange.site.browser(like=shop.browser)
    assert strange.visit(lambda session: (dict(session), session.new)) == (
        {}, True
    )
    assert is_in_log(caplog)


class Wordy(Strange):
    """A serializer whose dumps returns what it likes, too."""

    def dumps(self, data):
        return self.answer


@pytest.mark.parametrize('answer', ['{}', None, memoryview(b'')], ids=type)
@sqlite
def test_a_serializer_that_makes_no_bytes(make_site, answer):
    """R6: an error names the setting and what is needed, nothing is stored."""
    shop = Shop(make_site(serializer=Wordy(answer)))
    with pytest.raises(SessionError, match='bytes') as caught:
        shop.store(a=1)
    assert 'sqlasession.serializer = ' in str(caught.value)
    assert f'returned a {type(answer).__name__} ' in str(caught.value)
    assert shop.site.rows() == []


class Refusing(Reversed):
    """A serializer that refuses what json refuses."""

    def dumps(self, data):
        if 'bad' in data:
            raise SessionNotSerializable("session['bad']", 'bad')
        return super().dumps(data)


def test_a_serializer_that_refuses(make_site):
    """R6: its error is raised in the view's transaction."""
    shop = Shop(make_site(serializer=Refusing()))

    def work(request):
        request.dbsession.add(Note(text='x'))
        request.session['bad'] = 1

    with pytest.raises(SessionNotSerializable):
        shop.request(work)
    assert shop.site.notes() == []
    assert shop.site.rows() == []
