"""A serializer of the application's own (R6, R8)."""

import json
import os

import pytest

from pyramid_sqlasession import SessionConflict
from pyramid_sqlasession import SessionError
from pyramid_sqlasession import SessionNotSerializable

from .damaging import check_damaged
from .damaging import is_in_log
from .failing import on_sqlite
from .site import Note
from .visitor import Visitor


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
    visitor = Visitor(make_site(serializer=given))
    visitor.store(a=['ü\U0001f36a'], b=1)
    visitor.visit(lambda session: session['a'].append(1))
    visitor.visit(lambda session: session.flash('hi'))
    visitor.visit(lambda session: session.pop('b'))
    assert visitor.content == {'a': ['ü\U0001f36a', 1], '_f_': ['hi']}
    assert visitor.visit(lambda session: session.pop_flash()) == ['hi']
    assert visitor.content == {'a': ['ü\U0001f36a', 1]}
    visitor.site.listen()
    visitor.visit(lambda session: session['a'])
    assert visitor.site.statements.verbs == ['SELECT']


class Encrypting:
    """Other bytes each time, as of whatever encrypts."""

    def dumps(self, data):
        return os.urandom(8) + json.dumps(data).encode()

    def loads(self, raw):
        return json.loads(raw[8:])


class Keyed:
    """A serializer that keeps keys that are no str."""

    def dumps(self, data):
        return json.dumps([*data.items()]).encode()

    def loads(self, raw):
        return dict(json.loads(raw))


@pytest.mark.parametrize('conflict', ['merge', 'retry'])
def test_a_serializer_with_other_bytes_each_time(make_site, conflict):
    """C1, C3, D4: who only reads writes nothing, and undoes nothing."""
    site = make_site(serializer=Encrypting(), conflict=conflict)
    visitor = Visitor(site)
    visitor.store(cart=[1], n=1)
    site.listen()
    assert visitor.visit(lambda session: len(session['cart'])) == 1
    assert site.statements.verbs == ['SELECT']

    def read_and_wait(session):
        seen = len(session['cart'])
        visitor.visit(lambda other: other['cart'].append(2))
        return seen

    assert visitor.visit(read_and_wait) == 1
    assert visitor.visit(lambda session: session['cart']) == [1, 2]


def test_a_queue_of_a_serializer_with_other_bytes_each_time(make_site):
    """C2: each message is seen once."""
    visitor = Visitor(make_site(serializer=Encrypting()))
    visitor.visit(lambda session: session.flash('one'))
    seen = []

    def flash_and_wait(session):
        session.flash('two')
        visitor.visit(lambda other: seen.extend(other.pop_flash()))

    visitor.visit(flash_and_wait)
    seen += visitor.visit(lambda session: session.pop_flash())
    assert seen == ['one', 'two']


@on_sqlite
def test_a_conflict_of_keys_that_are_no_str(make_site):
    """C3: the error names them all, and it is the one that is promised."""
    visitor = Visitor(make_site(serializer=Keyed(), conflict='retry'))
    visitor.visit(lambda session: session.update({1: 1, 'a': 1}))

    def change(session):
        session.update({1: 2, 'a': 2})
        visitor.visit(lambda other: other.update({1: 3, 'a': 3}))

    with pytest.raises(SessionConflict, match="1, 'a'"):
        visitor.visit(change)


@pytest.mark.parametrize(
    ('writer', 'reader'),
    [('json', reversed_json), (reversed_json, 'json'), ('json', Nully()),
     (Texty(), reversed_json), (Nully(), 'json')],
    ids=['json-bytes', 'bytes-json', 'json-nul', 'base64-bytes', 'nul-json'],
)
def test_rows_of_a_foreign_serializer(make_site, caplog, writer, reader):
    """R8: rows that another serializer wrote are damage."""
    before = Visitor(make_site(serializer=writer))
    before.store(a=1)
    visitor = Visitor(make_site(serializer=reader))
    visitor.browser = visitor.site.browser(like=before.browser)
    check_damaged(visitor, caplog)


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
@on_sqlite
def test_a_serializer_that_gives_no_dict(make_site, caplog, answer):
    """R8: anything but a dict is damage."""
    visitor = Visitor(make_site(serializer='json'))
    visitor.store(a=1)
    strange = Visitor(make_site(serializer=Strange(answer)))
    strange.browser = strange.site.browser(like=visitor.browser)
    assert strange.visit(lambda session: (dict(session), session.new)) == (
        {}, True
    )
    assert is_in_log(caplog)


class Wordy(Strange):
    """A serializer whose dumps returns what it likes, too."""

    def dumps(self, data):
        return self.answer


@pytest.mark.parametrize('answer', ['{}', None, memoryview(b'')], ids=type)
@on_sqlite
def test_a_serializer_that_makes_no_bytes(make_site, answer):
    """R6: an error names the setting and what is needed, nothing is stored."""
    visitor = Visitor(make_site(serializer=Wordy(answer)))
    with pytest.raises(SessionError, match='bytes') as caught:
        visitor.store(a=1)
    assert 'sqlasession.serializer = ' in str(caught.value)
    assert f'returned a {type(answer).__name__} ' in str(caught.value)
    assert visitor.site.rows() == []


class Refusing(Reversed):
    """A serializer that refuses what json refuses."""

    def dumps(self, data):
        if 'bad' in data:
            raise SessionNotSerializable("session['bad']", 'bad')
        return super().dumps(data)


def test_a_serializer_that_refuses(make_site):
    """R6: its error is raised in the view's transaction."""
    visitor = Visitor(make_site(serializer=Refusing()))

    def work(request):
        request.dbsession.add(Note(text='x'))
        request.session['bad'] = 1

    with pytest.raises(SessionNotSerializable):
        visitor.request(work)
    assert visitor.site.notes() == []
    assert visitor.site.rows() == []
