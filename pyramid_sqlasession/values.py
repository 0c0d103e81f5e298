"""One setting: from what is written, or given as an object, to its value.

A reader for each kind of value: it gets what is given, and returns the value,
or raises :class:`Refused`, which says what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver
from pyramid.request import Request
from pyramid.settings import falsey
from pyramid.settings import truthy

from pyramid_sqlasession.durations import duration
from pyramid_sqlasession.durations import HOW_WRITTEN
from pyramid_sqlasession.durations import LONGEST
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.serializers import Serializer

PREFIX = 'sqlasession.'


#: What a reader returns for a value that means "not set".
UNSET: Any = object()


class Refused(Exception):
    """What is given cannot be the value; the text says what is allowed."""


def bad_value(key: str, value: object, problem: str) -> ConfigurationError:
    """Return the error for a setting; *problem* says what is allowed."""
    return bad_option(PREFIX + key, repr(value), problem)


def bad_option(key: str, shown: str, problem: str) -> ConfigurationError:
    """Return the same error, by the whole *key* and the text of the value."""
    # Before it is cut: the end of a password may be what is recognised.
    shown = without_passwords(shown)
    if len(shown) > 200:
        shown = f'{shown[:197]}...'
    # The problem may quote a part of the value.
    problem = without_passwords(problem)
    return ConfigurationError(f'{key} = {shown}: {problem}')


def is_hidden(option: str) -> bool:
    """Return whether the value of an option of the engine may be secret."""
    return re.search('pass|args|secret|key|url', option) is not None


def without_passwords(text: str) -> str:
    """Return *text* without those in URLs, which get under any key."""
    text = re.sub(r'://.*@', '://(not shown)@', text, flags=re.DOTALL)
    return re.sub(
        r"""(?i)(pass\w*['"]?\s*[=:]\s*['"]?)[^&\s'",}]+""",
        r'\1(not shown)', text,
    )


def _seconds(value: Any) -> float:
    try:
        seconds = duration(value)
    except ValueError as error:
        raise Refused(f'not a duration, {error}') from None
    if seconds > LONGEST:
        raise Refused('at most 100 years are possible')
    return seconds


def interval(value: Any) -> float:
    """Read a duration of which 0 or less is never; return seconds."""
    try:
        return _seconds(value)
    except Refused as error:
        raise Refused(f'{error}; 0 is never') from None


def positive(value: Any) -> float:
    """Read a duration above 0; return seconds."""
    seconds = _seconds(value)
    if seconds <= 0:
        raise Refused(f'must be above 0; {HOW_WRITTEN}')
    return seconds


def not_negative(value: Any) -> float:
    """Read a duration of 0 or more; return seconds."""
    seconds = _seconds(value)
    if seconds < 0:
        raise Refused(f'must not be below 0; {HOW_WRITTEN}')
    return seconds


def max_age(value: Any) -> Any:
    """Read a duration of a second or more, or ``session``, which is None."""
    if isinstance(value, str) and value.lower() == 'session':
        return None
    try:
        seconds = duration(value)
    except ValueError as error:
        raise Refused(
            f"not a duration, {error}; or 'session' for a cookie that ends "
            f'with the browser'
        ) from None
    if not 1 <= seconds <= LONGEST:
        raise Refused(
            "must be at least 1 second and at most 100 years, or 'session'"
        )
    return seconds


def flag(value: Any) -> bool:
    """Read true or false, in the words that Pyramid knows."""
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in truthy or word in falsey:
        return word in truthy
    raise Refused('must be true or false')


def secure(value: Any) -> Any:
    """Read ``auto``, which is unset, true or false."""
    if isinstance(value, str) and value.lower() == 'auto':
        return UNSET
    try:
        return flag(value)
    except Refused:
        raise Refused('must be auto, true or false') from None


def choice_of(*allowed: str) -> Callable[[Any], str]:
    """Return a reader of one of the words *allowed*, in any case."""
    def read(value: Any) -> str:
        for word in allowed:
            if str(value).lower() == word.lower():
                return word
        raise Refused(f'must be one of {", ".join(allowed)}')

    return read


def count(value: Any) -> int:
    """Read a whole number of 1 or more."""
    return _whole_number(value, 1)


def count_from_zero(value: Any) -> int:
    """Read a whole number of 0 or more."""
    return _whole_number(value, 0)


def _whole_number(value: Any, least: int) -> int:
    try:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        raise Refused('must be a whole number') from None
    if number < least:
        raise Refused(f'must be at least {least}')
    return number


_SIZES = {
    '': 1, 'b': 1,
    'kb': 1000, 'mb': 1000**2, 'gb': 1000**3,
    'kib': 1024, 'mib': 1024**2, 'gib': 1024**3,
}


def size(value: Any) -> int:
    """Read a size; return bytes."""
    problem = (
        'must be a number of bytes, or one with a unit such as 64KiB, at '
        'least 2 and at most 1GiB'
    )
    match = re.fullmatch(
        r'([0-9]{1,15})\s*([a-z]*)', str(value).lower(), re.ASCII
    )
    if match is None or match[2] not in _SIZES:
        raise Refused(problem)
    found = int(match[1]) * _SIZES[match[2]]
    # 1 GiB is what a text column of PostgreSQL holds.
    if not 2 <= found <= 1024**3:
        raise Refused(problem)
    return found


def words(value: Any) -> tuple[str, ...]:
    """Read one or more words; what they are is shown in no error."""
    given = value.split() if isinstance(value, str | bytes) else value
    if not isinstance(given, Iterable):
        raise Refused(_WORDS)
    found = tuple(map(_word, given))
    if not found:
        raise Refused(_WORDS)
    return found


_WORDS = 'must be text, or a list of texts'


def _word(value: Any) -> str:
    # As Fernet.generate_key() returns it.
    if isinstance(value, bytes) and value.isascii():
        value = value.decode()
    if not isinstance(value, str) or not value:
        raise Refused(_WORDS)
    return value


def text(value: Any) -> str:
    """Read text of any kind."""
    if not isinstance(value, str):
        raise Refused('must be text')
    return value


#: Attributes of a request that are set by others.
_OTHERS = ('session_store', 'tm', 'registry')


def identifier(value: Any) -> str:
    """Read the name of an attribute of the request."""
    if not isinstance(value, str) or not value.isidentifier():
        raise Refused('must be the name of a request attribute')
    if hasattr(Request, value) or value in _OTHERS:
        raise Refused(
            'must be the name of the request attribute with the SQLAlchemy '
            'session of the application, and not of another one'
        )
    return value


def table_name(value: Any) -> str:
    """Read the name of a table."""
    if not isinstance(value, str) or not re.fullmatch(
        r'[^\W\d]\w{0,62}', value
    ):
        raise Refused(
            'must be a name of at most 63 letters, digits and underscores '
            'that does not begin with a digit'
        )
    return value


def field_name(value: Any) -> str:
    """Read the name of an additional field."""
    if not isinstance(value, str) or not value.isidentifier():
        raise Refused('must be the name of an additional field')
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """Take a dict."""
    if not isinstance(value, Mapping):
        raise Refused(
            'must be a dict, which an ini file cannot write: set it in the '
            'settings that main() gives to the Configurator'
        )
    return value


def url(value: Any) -> Any:
    """Take a text or a ``sqlalchemy.URL``, which SQLAlchemy will read."""
    return value


def dotted_name_of(
    what: str, fits: Callable[[Any], bool]
) -> Callable[[Any], Any]:
    """Return a reader of a dotted name, or of the object itself.

    :param what: it has to be.
    :param fits: whether an object is that.
    """
    def read(value: Any) -> Any:
        found = _resolved(value, what)
        if not fits(found):
            raise Refused(f'must be the dotted name of {what}')
        return found

    return read


def _resolved(value: Any, what: str) -> Any:
    """Return the object that a dotted name stands for, or is given itself."""
    if not isinstance(value, str):
        return value
    try:
        return DottedNameResolver(None).resolve(value)
    except Exception as error:
        raise Refused(
            f'cannot be imported ({type(error).__name__}: {error}); it must '
            f'be the dotted name of {what}'
        ) from error


def serializer(value: Any) -> Serializer:
    """Read ``json``, or a serializer or its dotted name."""
    what = 'an object with dumps and loads'
    if isinstance(value, str) and value.lower() == 'json':
        return JSONSerializer()
    found = _resolved(value, what)
    if isinstance(found, type):
        try:
            found = found()
        # Its __init__ may raise anything.
        except Exception as error:
            raise Refused(
                f'cannot be made without arguments: '
                f'{type(error).__name__}: {error}'
            ) from error
    if _can_run_code(found):
        raise Refused(
            'must not be able to run code: whoever can write to the table '
            'could run theirs here'
        )
    for method in ('dumps', 'loads'):
        if not callable(getattr(found, method, None)):
            raise Refused(
                f"must be 'json' or the dotted name of {what}; it has no "
                f'{method}'
            )
    serializer: Serializer = found
    return serializer


def _can_run_code(serializer: Any) -> bool:
    """Return whether *serializer* is one of the pickles (R6)."""
    name = getattr(serializer, '__name__', None)
    module = getattr(serializer, '__module__', None)
    names = f'{name or type(serializer).__name__}.{module}'.lower()
    return 'pickle' in names or name in ('marshal', 'dill')


# token of RFC 9110, section 5.6.2
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def cookie_name(value: Any) -> str:
    """Read the name of a cookie."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise Refused(
            "must consist of letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)"
        )
    return value


def cookie_path(value: Any) -> str:
    """Read the path of a cookie."""
    if not isinstance(value, str) or not re.fullmatch(
        r'/[\x21-\x3a\x3c-\x7e]*', value
    ):
        raise Refused(
            'must begin with / and be ASCII without blanks and semicolons'
        )
    return value


def cookie_domain(value: Any) -> str:
    """Read the domain of a cookie."""
    if not isinstance(value, str) or not re.fullmatch(
        r'\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*', value
    ):
        raise Refused('must be a host name such as example.com')
    return value
