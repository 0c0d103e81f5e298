"""Random requests of several browsers, compared with plain dicts.

Each browser has a model: what a dict would hold if only committed requests
counted.  A request is a list of operations, done to ``request.session`` and
to a copy of the model, and an ending that says what becomes of them.
"""

import copy

from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import run_state_machine_as_test
from pyramid.response import Response
import pytest

from pyramid_sqlasession import SessionNotSerializable

from .site import Note

BROWSERS = 3
HOURS = 24  # the default of ``expiration``


class Failed(Exception):
    """What a view raises; an exception view answers it."""


class Unanswered(Exception):
    """What a view raises; nobody answers it."""


class Model:
    """What one browser's session should be."""

    def __init__(self):
        self.data = {}
        #: Which record: a number, or None if there is none.
        self.record = None
        self.used = None

    def copied(self):
        return copy.deepcopy(self)


# -- operations: done to the session and to the model -------------------------

def _set(session, data, key, value):
    session[key] = copy.deepcopy(value)
    data[key] = value


def _delete(session, data, key, _):
    if key in data:
        del session[key], data[key]
    else:
        with pytest.raises(KeyError):
            del session[key]


def _pop(session, data, key, value):
    assert session.pop(key, value) == data.pop(key, value)


def _popitem(session, data, key, _):
    if not data:
        with pytest.raises(KeyError):
            session.popitem()
        return
    key, value = session.popitem()
    assert data.pop(key) == value


def _clear(session, data, key, _):
    session.clear()
    data.clear()


def _update(session, data, key, value):
    session.update({key: copy.deepcopy(value)}, both=1)
    data.update({key: value}, both=1)


def _ior(session, data, key, value):
    session |= {key: copy.deepcopy(value)}
    data |= {key: value}


def _setdefault(session, data, key, value):
    mine = copy.deepcopy(value)
    assert session.setdefault(key, mine) == data.setdefault(key, value)


def _append(session, data, key, value):
    """Change a value in place, as deep as it goes."""
    for mapping in (session, data):
        item = mapping.get(key)
        while isinstance(item, list | tuple) and item and isinstance(
            item[0], list | tuple | dict
        ):
            item = item[0]
        if isinstance(item, list):
            item.append(copy.deepcopy(value))
        elif isinstance(item, dict):
            item['more'] = copy.deepcopy(value)
        elif isinstance(item, set):
            item.add(7)


def _through_values(session, data, key, value):
    for mapping in (session, data):
        for item in mapping.values():
            if isinstance(item, list):
                item.append(0)


def _read(session, data, key, value):
    assert session.get(key, value) == data.get(key, value)
    assert (key in session) == (key in data)
    assert len(session) == len(data)
    assert bool(session) == bool(data)
    assert sorted(session) == sorted(data)
    assert session == data
    assert session | {'x': 1} == data | {'x': 1}
    assert dict(session) == session.copy() == data


def _flash(session, data, key, value):
    session.flash(copy.deepcopy(value), queue=key[:1])
    data.setdefault('_f_' + key[:1], []).append(value)


def _flash_once(session, data, key, value):
    session.flash('once', key[:1], allow_duplicate=False)
    queue = data.setdefault('_f_' + key[:1], [])
    if 'once' not in queue:
        queue.append('once')


def _pop_flash(session, data, key, _):
    assert session.pop_flash(key[:1]) == data.pop('_f_' + key[:1], [])


def _peek_flash(session, data, key, _):
    assert session.peek_flash(key[:1]) == data.get('_f_' + key[:1], [])


def _csrf(session, data, key, _):
    token = session.get_csrf_token()
    assert token == data.setdefault('_csrft_', token)


def _new_csrf(session, data, key, _):
    data['_csrft_'] = session.new_csrf_token()


def _changed(session, data, key, _):
    session.changed()


OPERATIONS = [
    _set, _set, _set, _delete, _pop, _popitem, _clear, _update, _ior,
    _setdefault, _append, _append, _through_values, _read, _flash,
    _flash_once, _pop_flash, _peek_flash, _csrf, _new_csrf, _changed,
]

_values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.just('text')
    | st.just(b'\x00') | st.just(1.0),
    lambda inner: st.lists(inner, max_size=2)
    | st.lists(inner, max_size=2).map(tuple)
    | st.dictionaries(st.sampled_from(['k', '$int']), inner, max_size=2)
    | st.just({1, 2}),
    max_leaves=3,
)
_keys = st.sampled_from(['a', 'b', 'c', 'list', '$int'])
_operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(OPERATIONS), _keys, _values),
        # What ends or renews the session, less often.
        st.tuples(
            st.sampled_from([
                'invalidate', 'rotate', 'rotate', 'tm.abort', 'tm.commit',
                'savepoint', 'touch', 'subrequest',
            ]),
            _keys, _values,
        ),
    ),
    max_size=5,
)
_browsers = st.integers(0, BROWSERS - 1)


class Request:
    """One request in both worlds."""

    def __init__(self, machine, number, operations):
        self.machine = machine
        self.committed = machine.models[number]
        self.model = self.committed.copied()
        self.operations = operations

    def work(self, request):
        """Do the operations of the view."""
        self.perform(request, self.operations)
        self.check(request.session)

    def perform(self, request, operations):
        session = request.session
        for what, key, value in operations:
            if callable(what):
                what(session, self.model.data, key, copy.deepcopy(value))
                continue
            getattr(self, '_' + what.replace('.', '_'))(request, key, value)

    def check(self, session):
        assert dict(session) == self.model.data
        assert repr(sorted(session.items(), key=str)) == repr(
            sorted(self.model.data.items(), key=str)
        )
        assert session.new == (self.model.record is None)
        assert (session.id is None) == session.new

    def saved(self):
        """What the request did was committed."""
        model = self.model
        if model.record is None and model.data:
            model.record = self.machine.new_record()
        model.used = self.machine.site.clock()
        vars(self.committed).update(vars(model.copied()))

    def taken_back(self):
        """What the request did was rolled back."""
        self.model = self.committed.copied()

    def _invalidate(self, request, key, value):
        request.session.invalidate()
        self.model = Model()

    def _rotate(self, request, key, value):
        request.session.rotate()
        self.model.data.pop('_csrft_', None)

    def _touch(self, request, key, value):
        request.session.touch()

    def _tm_abort(self, request, key, value):
        request.tm.abort()
        request.tm.begin()
        self.taken_back()
        assert dict(request.session) == self.model.data

    def _tm_commit(self, request, key, value):
        request.tm.commit()
        request.tm.begin()
        self.saved()
        assert dict(request.session) == self.model.data

    def _savepoint(self, request, key, value):
        before = copy.deepcopy(self.model.data)
        savepoint = request.tm.savepoint()
        request.session[key] = 'rolled back'
        request.session.flash('rolled back')
        request.session.pop('a', None)
        for item in request.session.values():
            if isinstance(item, list):
                item.append('rolled back')
        savepoint.rollback()
        self.model.data = before
        assert dict(request.session) == before

    def _subrequest(self, request, key, value):
        # Another browser's: without a cookie, a session of its own.
        sub = type(request).blank('/nothing')
        sub.registry = request.registry
        assert request.invoke_subrequest(sub).text == 'True'
        assert dict(request.session) == self.model.data


class Sessions(RuleBasedStateMachine):
    """Browsers, requests, time."""

    site = None

    @initialize()
    def begin(self):
        for table in ('sessions', 'notes'):
            self.site.execute(f'DELETE FROM {table}')
        self.browsers = [self.site.browser() for _ in range(BROWSERS)]
        self.models = [Model() for _ in range(BROWSERS)]
        self.records = 0
        self.notes = 0

        @self.site.view
        def nothing(request):
            return request.session.new

    def new_record(self):
        self.records += 1
        return self.records

    def expire(self, number):
        """Forget what has expired."""
        model = self.models[number]
        if model.record is not None and (
            (self.site.clock() - model.used).total_seconds() >= HOURS * 3600
        ):
            self.models[number] = Model()

    def visit(self, number, view, *, status=200):
        """Run *view* as a request of a browser; return the response."""
        self.site.views['page'] = view
        return self.browsers[number].get('/page', status=status)

    def is_stored(self, number):
        return self.models[number].record is not None

    @rule(number=_browsers, operations=_operations, writes=st.booleans())
    def commit(self, number, operations, writes):
        """A request that succeeds."""
        self.expire(number)
        request = Request(self, number, operations)

        def view(pyramid_request):
            request.work(pyramid_request)
            if writes:
                self.notes += 1
                pyramid_request.dbsession.add(Note(text=str(self.notes)))

        self.visit(number, view)
        request.saved()

    @rule(number=_browsers)
    def ignore(self, number):
        """A request that does not look at its session."""
        response = self.visit(number, lambda request: request.session and None
                              if False else None)
        assert 'Set-Cookie' not in response.headers

    @rule(
        number=_browsers, operations=_operations,
        how=st.sampled_from(['raise', 'doom', 'veto', 'bad', 'twice']),
    )
    def abort(self, number, operations, how):
        """A request of which nothing stays (T2)."""
        self.expire(number)
        request = Request(self, number, operations)

        def view(pyramid_request):
            request.work(pyramid_request)
            if how == 'raise':
                raise Unanswered
            if how == 'doom':
                pyramid_request.tm.doom()
            if how == 'bad':
                pyramid_request.session['bad'] = [object()]
            if how == 'twice':
                pyramid_request.dbsession.execute(
                    Note.__table__.insert(), [{'text': 'x'}, {'text': 'x'}]
                )
            return Response(headers={'X-Tm': 'abort'} * (how == 'veto')
                            if False else
                            ({'X-Tm': 'abort'} if how == 'veto' else {}))

        if how in ('doom', 'veto'):
            self.visit(number, view)
        else:
            with pytest.raises(Exception) as caught:  # noqa: PT011
                self.visit(number, view)
            expected = {'raise': Unanswered, 'bad': SessionNotSerializable}
            assert type(caught.value) is expected.get(how, caught.type)
            assert caught.type is not AssertionError
        self.seen_by_abort(request)

    def seen_by_abort(self, request):
        """A commit by hand stays; what came after it is gone."""
        if request.committed.record is not None:
            request.committed.used = max(
                request.committed.used or self.site.clock(),
                self.site.clock(),
            ) if self.touched(request) else request.committed.used

    def touched(self, request):
        return False

    @rule(number=_browsers, view=_operations, later=_operations)
    def exception_view(self, number, view, later):
        """An exception view's words stay, the view's are gone (T3)."""
        self.expire(number)
        request = Request(self, number, view)

        def fail(pyramid_request):
            request.work(pyramid_request)
            raise Failed

        def sorry(pyramid_request):
            request.taken_back()
            request.check(pyramid_request.session)
            request.perform(pyramid_request, [
                one for one in later
                if callable(one[0]) or one[0] in ('rotate', 'invalidate')
            ])
            return 'sorry'

        self.site.sorry = sorry
        assert self.visit(number, fail).text == 'sorry'
        request.saved()

    @rule(minutes=st.sampled_from([1, 2, 30, 60 * 13, 60 * 24]))
    def wait(self, minutes):
        """Time passes; some sessions may expire."""
        self.site.clock.advance(minutes=minutes)

    @rule()
    def clean(self):
        """The cleaner comes."""
        from pyramid_sqlasession.cleaner import Cleaner

        Cleaner(self.site.application).clean()
