"""Random requests of several browsers, compared with plain dicts.

Each browser has a model: what a dict would hold if only committed requests
counted.  A request is a list of operations, done to ``request.session`` and
to a copy of the model, and an ending that says what becomes of them.
"""

import copy
import datetime as dt
import uuid

from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import rule
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import run_state_machine_as_test
from pyramid.request import Request
from pyramid.response import Response
import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession.cleaner import Cleaner

from .site import Note

BROWSERS = 3
#: The default of ``expiration``.
LIFETIME = dt.timedelta(hours=24)


class Failed(Exception):
    """What a view raises; an exception view answers it."""


class Unanswered(Exception):
    """What a view raises; nobody answers it."""


class Model:
    """What one browser's session should be."""

    def __init__(self):
        self.data = {}
        self.is_stored = False
        #: Once a request has seen it.
        self.id = None
        #: When a request last extended the expiry.
        self.used = None


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


# Endings of a view that no response follows: a cookie would be lost.
def _without_commits(operations):
    return [one for one in operations if one[0] != 'tm.commit']


class Visit:
    """One request in both worlds."""

    def __init__(self, machine, number, operations):
        self.now = machine.site.clock()
        self.committed = machine.models[number]
        self.model = copy.deepcopy(self.committed)
        self.operations = operations

    def work(self, request):
        """Do what the view does."""
        self.perform(request, self.operations)
        self.check(request.session)

    def perform(self, request, operations):
        """Do *operations* to the session and to the model."""
        for what, key, value in operations:
            if callable(what):
                what(
                    request.session, self.model.data, key,
                    copy.deepcopy(value),
                )
            else:
                getattr(self, '_' + what.replace('.', '_'))(request, key)

    def check(self, session):
        """Assert that the session is what the model says."""
        model = self.model
        assert dict(session) == model.data
        assert shown(session) == shown(model.data)
        assert session.new is not model.is_stored
        assert (session.id is None) == session.new
        assert model.id in (None, session.id)
        model.id = session.id

    def saved(self):
        """What the request did was committed."""
        self.model.is_stored = self.model.is_stored or bool(self.model.data)
        self.model.used = self.now
        vars(self.committed).update(vars(copy.deepcopy(self.model)))

    def taken_back(self):
        """What the request did was rolled back."""
        self.model = copy.deepcopy(self.committed)

    def _invalidate(self, request, key):
        request.session.invalidate()
        self.model = Model()

    def _rotate(self, request, key):
        request.session.rotate()
        self.model.data.pop('_csrft_', None)

    def _touch(self, request, key):
        request.session.touch()

    def _tm_abort(self, request, key):
        request.tm.abort()
        request.tm.begin()
        self.taken_back()
        self.check(request.session)

    def _tm_commit(self, request, key):
        request.tm.commit()
        request.tm.begin()
        self.saved()
        self.check(request.session)

    def _savepoint(self, request, key):
        # zope.sqlalchemy has no savepoints on SQLite.
        if 'dbsession' in request.__dict__:
            return
        session = request.session
        savepoint = request.tm.savepoint()
        session[key] = 'rolled back'
        session.flash('rolled back')
        session.pop('a', None)
        for item in session.values():
            if isinstance(item, list):
                item.append('rolled back')
        savepoint.rollback()
        assert dict(session) == self.model.data

    def _subrequest(self, request, key):
        # Without a cookie: another session, of nobody.
        other = Request.blank('/nothing')
        assert request.invoke_subrequest(other).text == 'True'
        assert dict(request.session) == self.model.data


def shown(data):
    """Return a text of *data* that tells 1 from True."""
    return repr(sorted(data.items(), key=str))


class Sessions(RuleBasedStateMachine):
    """Browsers, requests, time."""

    site = None

    @initialize()
    def begin(self):
        for table in ('sessions', 'notes'):
            self.site.execute(f'DELETE FROM {table}')
        self.browsers = [self.site.browser() for _ in range(BROWSERS)]
        self.models = [Model() for _ in range(BROWSERS)]
        self.site.views['nothing'] = lambda request: request.session.new

    def begun(self, number, operations):
        """Return the visit of a browser; its session may have expired."""
        model = self.models[number]
        if model.is_stored and self.site.clock() >= model.used + LIFETIME:
            self.models[number] = Model()
        return Visit(self, number, operations)

    def get(self, number, view, status=200):
        """Run *view* as a request of a browser; return the response."""
        self.site.views['page'] = view
        return self.browsers[number].get('/page', status=status)

    @rule(number=_browsers, operations=_operations, writes=st.booleans())
    def commit(self, number, operations, writes):
        """A request that succeeds, with or without rows of its own."""
        visit = self.begun(number, operations)

        def view(request):
            visit.work(request)
            if writes:
                request.dbsession.add(Note(text=str(uuid.uuid4())))

        before = self.site.notes()
        self.get(number, view)
        visit.saved()
        assert len(self.site.notes()) == len(before) + writes

    @rule(number=_browsers)
    def ignore(self, number):
        """A request that does not look at its session."""
        response = self.get(number, lambda request: None)
        assert 'Set-Cookie' not in response.headers
        assert 'Vary' not in response.headers

    @rule(
        number=_browsers, operations=_operations,
        how=st.sampled_from(['doom', 'veto']),
    )
    def abort_with_response(self, number, operations, how):
        """T2: of a doomed or vetoed request nothing stays but the touch."""
        visit = self.begun(number, operations)

        def view(request):
            visit.work(request)
            request.dbsession.add(Note(text=str(uuid.uuid4())))
            if how == 'doom':
                request.tm.doom()
                return None
            return Response(headers={'X-Tm': 'abort'})

        before = self.site.notes()
        self.get(number, view)
        assert self.site.notes() == before
        if visit.committed.is_stored:
            visit.committed.used = visit.now

    @rule(
        number=_browsers, operations=_operations.map(_without_commits),
        how=st.sampled_from(['raise', 'bad', 'twice']),
    )
    def abort_without_response(self, number, operations, how):
        """T2, R6: nothing stays of a request that fails."""
        visit = self.begun(number, operations)

        def view(request):
            visit.work(request)
            if how == 'raise':
                raise Unanswered
            if how == 'bad':
                request.session['bad'] = [object()]
            if how == 'twice':
                request.dbsession.add_all([Note(text='x'), Note(text='x')])

        errors = {
            'raise': Unanswered, 'bad': SessionNotSerializable,
            'twice': sa.exc.IntegrityError,
        }
        with pytest.raises(errors[how]):
            self.get(number, view)
        assert 'x' not in self.site.notes()

    @rule(number=_browsers, operations=_operations, later=_operations)
    def exception_view(self, number, operations, later):
        """T3: the view's words are gone, the exception view's are stored."""
        visit = self.begun(number, operations)

        def view(request):
            visit.work(request)
            raise Failed

        def sorry(request):
            visit.taken_back()
            visit.check(request.session)
            visit.perform(request, [
                one for one in later
                if callable(one[0]) or one[0] in ('rotate', 'invalidate')
            ])
            visit.check(request.session)
            # A veto that is asked about 200 would commit everything.
            return Response('sorry', status=500)

        self.site.sorry = sorry
        assert self.get(number, view, status=500).text == 'sorry'
        visit.saved()

    @rule(number=_browsers, value=_values)
    def commit_though_the_view_failed(self, number, value):
        """T3: if the veto lets the transaction commit, both are stored."""
        visit = self.begun(number, [])

        def view(request):
            visit.perform(request, [
                (_set, 'a', value), (_flash, 'a', 'of the view')
            ])
            raise Failed

        def sorry(request):
            assert shown(request.session) == shown(visit.committed.data)
            request.session['b'] = value
            visit.model.data['b'] = value
            request.session.flash('of the exception view', 'a')
            visit.model.data['_f_a'].append('of the exception view')
            return Response('sorry')

        self.site.sorry = sorry
        self.get(number, view)
        visit.saved()

    @rule(number=_browsers)
    def log_out(self, number):
        """R4: record and cookie are gone; an expired one's cookie stays."""
        visit = self.begun(number, [])
        was_stored = visit.committed.is_stored
        self.get(number, lambda request: request.session.invalidate())
        vars(visit.committed).update(vars(Model()))
        if was_stored:
            assert self.browsers[number].cookies == {}

    @rule(minutes=st.sampled_from([1, 2, 30, 60 * 13, 60 * 24]))
    def wait(self, minutes):
        """Time passes; some sessions may expire (E1)."""
        self.site.clock.advance(minutes=minutes)

    @rule()
    def clean(self):
        """The cleaner comes (E3)."""
        Cleaner(self.site.application).clean()

    @invariant()
    def records_are_those_of_the_models(self):
        """No record is lost, revived, orphaned or doubled."""
        now = self.site.clock()
        read = self.site.application.codec.read
        rows = {
            str(row['id']): read(row['data'])[0]
            for row in self.site.rows() if row['expires'] > now
        }
        models = [
            model for model in self.models
            if model.is_stored and now < model.used + LIFETIME
        ]
        assert sorted(map(shown, rows.values())) == sorted(
            shown(model.data) for model in models
        )
        for model in models:
            if model.id is not None:
                assert shown(rows[model.id]) == shown(model.data)


# A failure is made small for up to five minutes.
@pytest.mark.timeout(400)
@pytest.mark.parametrize('database', ['sqlite'], indirect=True)
def test_sessions_are_dicts_of_what_was_committed(make_site):
    """R7, R9, R10, T2, T3, T9, E1: whatever requests do, in any order."""
    def configure(config):
        config.add_exception_view(
            lambda error, request: site.sorry(request), Failed
        )

    site = make_site(
        configure=configure,
        **{'tm.commit_veto': 'pyramid_tm.default_commit_veto'},
    )

    class OnThisSite(Sessions):
        pass

    OnThisSite.site = site
    run_state_machine_as_test(
        OnThisSite,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
