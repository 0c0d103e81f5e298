"""What a session can hold, through each database (R6)."""

import datetime as dt
from decimal import Decimal
import enum
import operator
import pickle
import threading
import uuid

from pyramid.i18n import TranslationString
from pyramid.response import Response
import pytest

from pyramid_sqlasession import SessionArgumentError
from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionFieldError
from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession import SessionStoreUnavailable
from pyramid_sqlasession import SessionTooLarge

from .failing import on_sqlite
from .site import Note
from .visitor import Visitor


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


def test_every_type_comes_back(visitor):
    """R6: through each database, also NUL, emoji and beyond 64 KiB."""
    visitor.store(**EVERY_TYPE)
    content = visitor.content
    assert content == EVERY_TYPE
    assert {k: _spelt(v) for k, v in content.items()} == {
        k: _spelt(v) for k, v in EVERY_TYPE.items()
    }
    assert content['aware'].utcoffset() == dt.timedelta(hours=5.5)


def test_subclasses_come_back_as_their_base(visitor):
    """R6: TranslationString as str, IntEnum as int."""
    visitor.store(t=TranslationString('id', default='text'), r=Rank.FIRST)
    content = visitor.content
    assert content == {'t': 'id', 'r': 1}
    assert {type(value) for value in content.values()} == {str, int}


# -- what cannot be stored ----------------------------------------------------

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


@pytest.mark.parametrize('key', [5, 10**5000], ids=['int', 'huge'])
def test_a_key_that_is_no_str_is_taken_back(quick, key):
    """R6, T2: whatever it is, the abort takes it back."""
    seen = []

    def work(request):
        session = request.session
        session[key] = 1
        with pytest.raises(SessionNotSerializable):
            request.tm.commit()
        request.tm.abort()
        seen.append(dict(session))
        request.tm.begin()

    quick.request(work)
    assert seen == [{}]


def test_a_cycle_cannot_be_stored(visitor):
    """R6: nor can a list that contains itself."""
    def work(session):
        session['a'] = [1]
        session['a'].append(session['a'])

    with pytest.raises(SessionNotSerializable, match='contains itself'):
        visitor.visit(work)
    assert visitor.site.rows() == []


@pytest.mark.parametrize('key', [1, None, b'a', (1,), True, 1.5])
@pytest.mark.parametrize('stored', [True, False], ids=['stored', 'new'])
def test_keys_must_be_text(quick, key, stored):
    """R6: a key that is no str is named."""
    if stored:
        quick.store(a=1)
    with pytest.raises(SessionNotSerializable) as caught:
        quick.visit(lambda session: operator.setitem(session, key, 1))
    assert caught.value.path == f'session[{key!r}]'


@pytest.mark.parametrize('key', [1, b'a'])
def test_keys_must_be_text_beside_a_flash_message(quick, key):
    """R6: named, too, by a request that shows the last message."""
    quick.visit(lambda session: session.flash('hi'))

    def work(session):
        assert session.pop_flash() == ['hi']
        session[key] = 1

    with pytest.raises(SessionNotSerializable) as caught:
        quick.visit(work)
    assert caught.value.path == f'session[{key!r}]'
    assert quick.content == {'_f_': ['hi']}


@pytest.mark.parametrize('key', ['_fh_', '_f_', '_csrft_', '$', 'self'])
@pytest.mark.parametrize('value', ['text', {'_f_': 1}, 7, (1,)], ids=repr)
def test_no_key_is_lost(quick, key, value):
    """R6, R10: each key is the application's, those of the package too."""
    quick.visit(lambda session: operator.setitem(session, key, value))
    assert quick.content == {key: value}


@on_sqlite
@pytest.mark.parametrize('kind', sorted(UNSTORABLE))
def test_an_exception_view_after_what_cannot_be_stored(make_site, kind):
    """T3, R6: the exception view works, whatever the view has put in."""
    def configure(config):
        config.add_exception_view(sorry, ZeroDivisionError)

    def sorry(error, request):
        request.session.flash('sorry')
        return Response(repr(sorted(request.session)))

    site = make_site(configure=configure)
    visitor = Visitor(site)
    visitor.store(a=1)

    def work(request):
        request.session['bad'] = [0, UNSTORABLE[kind][0]]
        raise ZeroDivisionError

    @site.view
    def page(request):
        work(request)

    assert visitor.browser.get('/page').text == "['_f_', 'a']"
    assert visitor.content == {'a': 1, '_f_': ['sorry']}


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
    visitor = Visitor(make_site(max_size='1KiB'))
    visitor.store(a='x' * 1016)
    with pytest.raises(SessionTooLarge) as caught:
        visitor.store(b='x')
    assert caught.value.limit == 1024
    assert visitor.content == {'a': 'x' * 1016}
    with pytest.raises(SessionTooLarge):
        visitor.store(a='ü' * 600)
    with pytest.raises(SessionTooLarge):
        Visitor(visitor.site).store(a='x' * 1100)
    assert len(visitor.site.rows()) == 1


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


@pytest.mark.parametrize('error', [
    SessionConflict(['n']), SessionConflict([], 'in words'),
    SessionTooLarge(3, 2), SessionFieldError('user_id', 'x', 'an int'),
    SessionNotSerializable("session['x']", 'object'),
    SessionNotSerializable("session['x']", 'dict', 'it contains itself'),
    SessionStoreUnavailable('away'), SessionArgumentError('none'),
], ids=lambda error: type(error).__name__)
def test_an_error_is_sent_to_another_process(error):
    """Section 3: what a worker of a job queue raises arrives as it was."""
    sent = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(sent) is type(error)
    assert str(sent) == str(error)
    assert vars(sent) == vars(error)
