"""Values to bytes and back: exact, readable, and safe with hostile bytes."""

import collections
import dataclasses
import datetime as dt
from decimal import Decimal
import enum
import fractions
import json
import pathlib
import subprocess
import sys
import uuid
import zoneinfo

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.serializers import MAX_DEPTH

from .naming import shown

BERLIN = zoneinfo.ZoneInfo('Europe/Berlin')
FAR_EAST = dt.timezone(dt.timedelta(hours=14))
ODD = dt.timezone(-dt.timedelta(hours=3, minutes=30, seconds=7))


def there_and_back(value):
    """Return the value as it comes out of a stored session."""
    serializer = JSONSerializer()
    return serializer.loads(serializer.dumps({'key': value}))['key']


def exact(value):
    """Return a text that is equal only for values of the same types.

    ``==`` takes ``1``, ``1.0`` and ``True`` for the same, and no NaN for
    itself; two aware datetimes of one instant are equal in all zones.
    """
    if type(value) is dict:
        items = (f'{key!r}: {exact(item)}' for key, item in value.items())
        return '{' + ', '.join(items) + '}'
    if type(value) in (list, tuple):
        return f'{type(value).__name__}({", ".join(map(exact, value))})'
    if type(value) is set:
        return f'set({", ".join(sorted(map(exact, value)))})'
    if isinstance(value, dt.datetime | dt.time):
        moment = value.replace(tzinfo=None)
        if value.tzinfo is not None:
            # The offset says which of two equal hours it is.
            moment = moment.replace(fold=0)
        return f'{moment!r} {value.utcoffset()!r}'
    if isinstance(value, int):
        # Python refuses to print longer ones in decimal.
        return f'{type(value).__name__} {value:x}'
    return f'{type(value).__name__} {value!r}'


def label(value):
    """Return a short id of a parameter, in ASCII."""
    if type(value) is int and abs(value) > 2**99:
        return f'int of {value.bit_length()} bits'
    return ascii(shown(value))[1:40]


SCALARS = [
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63),
    2**63, 2**64 - 1, 2**64, -(2**63) - 1, 1 << 20_000, -(1 << 20_000),
    0.0, -0.0, 1.0, 0.1, 1e-320, 1.7976931348623157e308,
    float('inf'), float('-inf'), float('nan'),
    '', 'text', 'ü', '\U0001f36a', '\x00', '"\\\n\u2028', '$', '$int',
    'base64:', b'', b'\x00\xff', b'text',
    dt.datetime(2026, 11, 23, 12, 30, 15, 123456),
    dt.datetime.min, dt.datetime.max,
    dt.datetime(2026, 11, 23, tzinfo=dt.UTC),
    dt.datetime(2026, 7, 1, 12, tzinfo=BERLIN),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN),
    dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    dt.datetime(2026, 10, 25, 2, 30, fold=1),
    dt.datetime.min.replace(tzinfo=FAR_EAST),
    dt.datetime.max.replace(tzinfo=ODD),
    dt.date.min, dt.date(2026, 2, 28), dt.date.max,
    dt.time.min, dt.time(23, 59, 59, 999999), dt.time(2, 30, fold=1),
    dt.time(12, tzinfo=dt.UTC), dt.time(12, 0, 0, 1, tzinfo=ODD),
    dt.timedelta(0), dt.timedelta(microseconds=-1), dt.timedelta.min,
    dt.timedelta.max,
    Decimal('0'), Decimal('-0.00'), Decimal('1.10'), Decimal('1E+999'),
    Decimal('NaN'), Decimal('sNaN123'), Decimal('-Infinity'),
    Decimal('1234567890.12345678901234567890123456789012345'),
    uuid.UUID(int=0), uuid.UUID(int=2**128 - 1),
]

CONTAINERS = [
    [], (), set(), {}, [[]], ((),), [()], ([],), {'': {}}, {''},
    [1, 1.0, True], (None, b'', ''), {(1, (2, b''))},
    {1.5, 'a', b'a', None, dt.date(2026, 1, 1)},
    {'$int': '0x10'}, {'$dict': {'$dict': {}}}, {'$set': [1], 'b': 2},
    {'$unknown': 1}, {'$': (1,)}, {'a': {'$tuple': [1]}}, ({'$tuple': []},),
    {'a': [{'b': ({'c': {1, 2}},)}]},
    {'"$': '"$', '\\"$': 1},
]


@pytest.mark.parametrize('value', SCALARS, ids=label)
def test_scalars_come_back_exactly(value):
    """R6: each storable type comes back as it was, to the last digit."""
    assert exact(there_and_back(value)) == exact(value)


@pytest.mark.parametrize('value', CONTAINERS, ids=label)
def test_containers_come_back_exactly(value):
    """R6: nested containers keep their types, whatever is beside them."""
    assert exact(there_and_back(value)) == exact(value)


@pytest.mark.parametrize('value', SCALARS, ids=label)
def test_scalars_come_back_from_any_depth(value):
    """R6: how deep a value lies makes no difference, nor what it lies in."""
    nested = value
    for _ in range(3):
        nested = [0, {'a': 'b', 'c': nested}]
        assert exact(there_and_back(nested)) == exact(nested)
        assert exact(there_and_back([nested])) == exact([nested])


@pytest.mark.parametrize('value', CONTAINERS[14:18], ids=label)
def test_sessions_that_look_like_a_tag(value):
    """R6: the session itself may have the keys that tags have."""
    serializer = JSONSerializer()
    assert serializer.loads(serializer.dumps(value)) == value


class Word(str):
    """A str whose methods say something else, as Markup's do."""

    def __str__(self):
        return 'something else'


class Level(enum.IntEnum):
    """An IntEnum."""

    HIGH = 3


class Suit(enum.StrEnum):
    """A str that is an Enum."""

    HEARTS = 'hearts'


class Ratio(float):
    """A float of another class."""


class Number(int):
    """An int of another class."""


class Money(Decimal):
    """A Decimal of another class."""


class Day(dt.date):
    """A date of another class."""


class Moment(dt.datetime):
    """A datetime of another class."""


class Blob(bytes):
    """Bytes of another class."""


class Span(dt.timedelta):
    """A timedelta of another class."""


class Signed(dt.timedelta):
    """A timedelta whose days have the sign of the whole, as pendulum's do."""

    @property
    def days(self):
        return int(self.total_seconds() / 86400)


class Precise(dt.datetime):
    """A datetime that writes more digits than its base, as pandas' does."""

    def isoformat(self, *args):
        return super().isoformat(*args) + '789'


class NotATime(dt.datetime):
    """A datetime that is none, as pandas' NaT is."""

    year = property(lambda self: float('nan'))


class Key(uuid.UUID):
    """A UUID of another class."""


class Row(list):
    """A list of another class."""


class Bag(set):
    """A set of another class."""


Point = collections.namedtuple('Point', 'x y')


@pytest.mark.parametrize(
    ('value', 'base'),
    [
        (Word('text'), 'text'),
        (Level.HIGH, 3),
        (Suit.HEARTS, 'hearts'),
        (Ratio(1.0), 1.0),
        (Ratio('nan'), float('nan')),
        (Number(2**70), 2**70),
        (Number(7), 7),
        (Money('1.10'), Decimal('1.10')),
        (Day(2026, 1, 2), dt.date(2026, 1, 2)),
        (Moment(2026, 1, 2, 3), dt.datetime(2026, 1, 2, 3)),
        (Blob(b'\xff'), b'\xff'),
        (Span(3), dt.timedelta(3)),
        (Signed(-1, -5), dt.timedelta(-1, -5)),
        (Precise(2026, 1, 2), dt.datetime(2026, 1, 2)),
        (Key(int=5), uuid.UUID(int=5)),
        (Row([(1,)]), [(1,)]),
        (Row([1]), [1]),
        (Bag({1}), {1}),
        (Point(1, 2), (1, 2)),
        (collections.OrderedDict(a=1), {'a': 1}),
        (collections.defaultdict(list, a=(1,)), {'a': (1,)}),
        (collections.Counter('a'), {'a': 1}),
        ({Word('a'): Word('b')}, {'a': 'b'}),
        ({Suit.HEARTS: 1}, {'hearts': 1}),
        ({Level.HIGH}, {3}),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize('beside', [0, (0,)], ids=['plain', 'tagged'])
def test_subclasses_come_back_as_their_base_type(value, base, beside):
    """R6: a subclass is stored as the type that it is built on."""
    # Beside plain values the serializer takes its fast way, beside others the
    # slow one.
    came = there_and_back([value, beside])
    assert exact(came) == exact([base, beside])


def test_a_value_of_a_subclass_that_is_none():
    """R6: it is refused as what cannot be stored, with its path."""
    with pytest.raises(SessionNotSerializable, match=r"\['v'\].*NotATime"):
        JSONSerializer().dumps({'v': NotATime(2026, 1, 2)})


@dataclasses.dataclass
class Product:
    """A dataclass: orjson would write it as a dict."""

    price: int = 1


@dataclasses.dataclass(eq=False)
class Chameleon:
    """A dataclass that takes itself for a dict."""

    price: int = 1

    def __eq__(self, other):
        return other == {'price': self.price}

    __hash__ = None


class Color(enum.Enum):
    """An Enum of plain values: orjson would write the value."""

    RED = 'red'


class Size(enum.Enum):
    """An Enum that says it equals its value."""

    BIG = 'big'

    def __eq__(self, other):
        return self.value == other

    __hash__ = enum.Enum.__hash__


class Anything:
    """Equal to whatever it is compared with."""

    def __eq__(self, other):
        return True

    __hash__ = None


def a_cycle():
    """Return a list that contains itself."""
    cycle = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ('value', 'path', 'words'),
    [
        (object(), "session['key']", 'object'),
        (Product(), "session['key']", 'Product'),
        (Chameleon(), "session['key']", 'Chameleon'),
        (Anything(), "session['key']", 'Anything'),
        (Color.RED, "session['key']", 'Color'),
        (Size.BIG, "session['key']", 'Size'),
        (frozenset({1}), "session['key']", 'frozenset'),
        (bytearray(b'a'), "session['key']", 'bytearray'),
        (memoryview(b'a'), "session['key']", 'memoryview'),
        (range(3), "session['key']", 'range'),
        (1j, "session['key']", 'complex'),
        (fractions.Fraction(1, 3), "session['key']", 'Fraction'),
        (pathlib.PurePosixPath('/'), "session['key']", 'PurePosixPath'),
        (iter([]), "session['key']", 'list_iterator'),
        (print, "session['key']", 'builtin_function_or_method'),
        (int, "session['key']", 'type'),
        ([1, {'a': (0, object())}], "session['key'][1]['a'][1]", 'object'),
        ({'a': {1: 2}}, "session['key']['a'][1]", 'int'),
        ({None: 2}, "session['key'][None]", 'NoneType'),
        ({b'a': 2}, "session['key'][b'a']", 'bytes'),
        ({(1, 2): 2}, "session['key'][(1, 2)]", 'tuple'),
        ({True: 2}, "session['key'][True]", 'bool'),
        ({Color.RED: 2}, "session['key'][", 'Color'),
        pytest.param(
            {10**5000: 2}, "session['key'][something of type int", 'int',
            id='huge',
        ),
        ('\ud800', "session['key']", 'surrogate'),
        (['\udfff'], "session['key'][0]", 'surrogate'),
        ({'\ud800': 1}, "session['key']['\\ud800']", 'surrogate'),
        (a_cycle(), "session['key'][0]", 'itself'),
    ],
    ids=label,
)
def test_errors_name_the_key_path(value, path, words):
    """R6: what cannot be stored is named with its path and its type."""
    with pytest.raises(SessionNotSerializable) as caught:
        there_and_back(value)
    assert caught.value.path.startswith(path)
    assert path in str(caught.value)
    assert words in str(caught.value)
    # Logs and consoles can show it.
    assert str(caught.value).encode()


def test_errors_name_a_key_of_the_session():
    """R6: a key of the session itself that is no str is named, too."""
    with pytest.raises(SessionNotSerializable) as caught:
        JSONSerializer().dumps({7: 'a'})
    assert caught.value.path == 'session[7]'
    assert caught.value.type == 'int'


def test_a_cycle_through_several_containers_is_an_error():
    """R6: a longer cycle is found, and not the recursion limit."""
    a, b = {}, []
    a['b'], c = b, (b,)
    b.append({'c': c})
    b.append(a)
    with pytest.raises(SessionNotSerializable, match='contains itself'):
        there_and_back(a)


def test_one_value_in_two_places_is_no_cycle():
    """R6: the same list twice is stored twice."""
    shared = [(1,)]
    assert there_and_back([shared, shared]) == [[(1,)], [(1,)]]


WRAPS = {
    'list': 'lambda value: [value]',
    'tuple': 'lambda value: (value,)',
    'dict': 'lambda value: {"a": value}',
    'tag-like': 'lambda value: {"$a": value}',
    'mixed': 'lambda value: [({"a": value},)]',
}


@pytest.mark.parametrize('wrap', WRAPS.values(), ids=WRAPS)
def test_nesting_comes_back(wrap):
    """R6: what nobody calls deep comes back."""
    value = 0
    for _ in range(30):
        value = eval(wrap)(value)  # noqa: S307
    assert there_and_back(value) == value


_DEEP = """
import os

from pyramid_sqlasession import SessionNotSerializable
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.serializers import MAX_DEPTH


wrap, value, serializer = {wrap}, 0, JSONSerializer()
for depth in range(1, 50_001):
    value = wrap(value)
    if depth not in (50, 100, 250, 254, 260, 1_000, 10_000, 50_000):
        continue
    try:
        raw = serializer.dumps({{'key': value}})
    except SessionNotSerializable as error:
        assert 'nested' in str(error), error
    else:
        # What was accepted has to come back, or the session would be lost.
        assert serializer.dumps(serializer.loads(raw)) == raw
# Freeing such a value is an affair of Python's.
os._exit(0)
"""


@pytest.mark.parametrize('wrap', WRAPS.values(), ids=WRAPS)
def test_deep_nesting_comes_back_or_is_an_error(wrap):
    """R6: too deep is an error before anything is stored, never a crash."""
    # In a process of its own: C code that recurses ends the whole process.
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _DEEP.format(wrap=wrap)],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('leaf', [0, (), dt.date(2026, 1, 1)], ids=label)
def test_the_limit_of_nesting_is_the_same_for_all_values(leaf):
    """R6: how deep values may be does not depend on what is in there."""
    limit = MAX_DEPTH - 1 - isinstance(leaf, tuple)
    for step in ([leaf], {'a': leaf}):
        value = step
        for number in range(1, limit):
            value = [value] if number % 2 else {'a': value}
        assert there_and_back(value) == value
        with pytest.raises(SessionNotSerializable, match='nested deeper'):
            there_and_back([value])


def test_long_paths_are_cut():
    """R6: an error does not repeat a key of a megabyte."""
    with pytest.raises(SessionNotSerializable) as caught:
        there_and_back({'x' * 1_000_000: object()})
    assert len(str(caught.value)) < 1000


def test_the_text_is_readable():
    """R6: plain values are plain JSON, for SQL tools."""
    raw = JSONSerializer().dumps({'user': 7, 'cart': [{'id': 1, 'n': 2.5}]})
    assert json.loads(raw) == {'user': 7, 'cart': [{'id': 1, 'n': 2.5}]}
    tagged = JSONSerializer().dumps({'day': dt.date(2026, 11, 23), 'ü': 'ß'})
    assert '2026-11-23' in tagged.decode()
    assert 'ß' in tagged.decode()


def test_equal_sets_have_equal_text():
    """R7: a set that was only looked at is no change."""
    one, other = set(), set()
    # These collide in a small table, so that their order is that of adding.
    for number in (0, 8, 16):
        one.add(number)
    for number in (16, 8, 0):
        other.add(number)
    assert list(one) != list(other)
    dumps = JSONSerializer().dumps
    assert dumps({'key': one}) == dumps({'key': other})


# -- properties ---------------------------------------------------------------

_text = st.text(st.characters(exclude_categories=['Cs']), max_size=8)
_zones = st.none() | st.builds(
    dt.timezone,
    st.timedeltas(
        dt.timedelta(hours=-23), dt.timedelta(hours=23)
    ),
) | st.just(BERLIN)
_hashable = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _text,
    st.binary(max_size=8), st.dates(), st.timedeltas(), st.uuids(),
    st.decimals(), st.datetimes(timezones=_zones),
    st.times(timezones=st.none() | st.just(dt.UTC)),
    st.integers(-(2**70), 2**70), st.sampled_from(['$int', '$dict', '$']),
)
_keys = _text | st.sampled_from(
    ['$int', '$dict', '$tuple', '$set', '$float', '$', '_f_', '"$']
)
_quiet = st.sets(
    _hashable.filter(lambda value: not (
        isinstance(value, Decimal) and value.is_snan()
    )), max_size=3,
)
_values = st.recursive(
    _hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_keys, inner, max_size=3),
        _quiet,
    ),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _values, max_size=4))
@settings(max_examples=300, deadline=None)
@example({'$dict': {'$dict': 1}})
@example({'a': {1, 1.5, '1', b'1'}})
def test_whatever_is_stored_comes_back(data):
    """R6: any nesting of storable values comes back exactly."""
    serializer = JSONSerializer()
    raw = serializer.dumps(data)
    assert exact(serializer.loads(raw)) == exact(data)


@given(st.dictionaries(_keys, _values, max_size=4))
@settings(max_examples=100, deadline=None)
def test_writing_again_gives_the_same_bytes(data):
    """R7: reading and writing without a change gives equal bytes."""
    serializer = JSONSerializer()
    raw = serializer.dumps(data)
    assert serializer.dumps(serializer.loads(raw)) == raw


_tags = st.sampled_from([
    '$datetime', '$date', '$time', '$timedelta', '$decimal', '$uuid',
    '$bytes', '$int', '$float', '$dict', '$tuple', '$set', '$object', '$',
])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.dictionaries(_tags | _text, inner, max_size=2),
        st.builds(lambda tag, item: {tag: item}, _tags, inner),
    ),
    max_leaves=10,
)


def storable(value):
    """Tell whether *value* consists of storable types only."""
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(
            map(storable, value.values())
        )
    if isinstance(value, list | tuple | set):
        return all(map(storable, value))
    return type(value) in (
        type(None), bool, int, float, str, bytes, dt.datetime, dt.date,
        dt.time, dt.timedelta, Decimal, uuid.UUID,
    )


@given(
    st.binary(max_size=64)
    | _json.map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=500, deadline=None)
@example(b'{"$int":"0x' + b'f' * 100_000 + b'"}')
@example(b'{"$decimal":"1e999999999999999999"}')
@example(b'{"$timedelta":[1e300,0,0]}')
@example(b'{"$timedelta":[999999999,999999999,99999999999999]}')
@example(b'{"$set":[[1]]}')
@example(b'{"$set":[{"$set":[]}]}')
@example(b'{"$dict":{"$dict":{"$dict":[]}}}')
@example(b'[' * 100_000)
@example(b'{"$tuple":[' * 500 + b']}' * 500)
@example(b'{"\\u0024int":"0x1"}')
@example(b'{"$uuid":"' + b'f' * 32 + b'\xff"}')
@example(b'')
def test_hostile_bytes_give_values_or_an_exception(raw):
    """R8: bytes by anybody's hand give storable values or an Exception."""
    try:
        value = JSONSerializer().loads(raw)
    # The caller takes any Exception for damage; a MemoryError or a
    # RecursionError would be an attack that worked.
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return
    assert storable(value)
