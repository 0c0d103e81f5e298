"""From ini strings or Python objects to frozen :class:`Settings`.

Every error names the full key, the value and what is allowed.  Knows nothing
of SQLAlchemy: an additional field is only described here (:class:`Field`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import datetime as dt
import difflib
import keyword
import math
import re
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.path import DottedNameResolver

from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.serializers import Serializer

PREFIX = 'sqlasession.'

#: Names of the columns that every session table has.
TABLE_COLUMNS = (
    'id', 'secret_hash', 'retired', 'version', 'data', 'created', 'started',
    'accessed', 'expires', 'sweep', 'lifetime', 'rotated',
)

#: Names that no additional field can have, as an attribute or an argument has
#: them already.
TAKEN = {
    'metadata': 'is an attribute of SQLAlchemy in each mapped class',
    'registry': 'is an attribute of SQLAlchemy in each mapped class',
    'fields': 'is the attribute with all fields in what session_store finds',
    'except_id': 'is an argument of session_store.revoke_where()',
    'self': 'is an argument of session_store.find()',
}

# Above this the arithmetic with datetimes overflows sooner or later.
_LONGEST = 100 * 366 * 86400.0


class _Unset:
    def __repr__(self) -> str:
        return 'unset'


UNSET: Any = _Unset()


@dataclass(frozen=True)
class Field:
    """One additional field, as described in the settings."""

    name: str
    #: A name in ``sqlalchemy``, a dotted name, or a type object.
    type: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    index: bool = False
    unique: bool = False
    nullable: bool = True

    def error(self, problem: str) -> ConfigurationError:
        """Return the error for a column that cannot be made."""
        kind = self.type if isinstance(self.type, str) else repr(self.type)
        return _error('additional_fields', f'{self.name}: {kind}', problem)


@dataclass(frozen=True)
class Settings:
    """The effective settings of one application; durations in seconds."""

    secret: tuple[str, ...] = field(default=(), repr=False)
    dbsession: str = 'dbsession'
    url: str | None = field(default=None, repr=False)
    engine_options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    engine: Any = None
    model: Any = None
    table_name: str = 'sessions'
    schema: str | None = None
    create_table: bool = False
    additional_fields: tuple[Field, ...] = ()
    extend_default_fields: Callable[..., Any] | None = None
    expiration: float = 86400.0
    absolute_timeout: float | None = None
    touch_interval: float = 60.0
    disable_touch: bool = False
    check_expiration_interval: float = 900.0
    renewal_interval: float | None = None
    renewal_grace: float = 60.0
    conflict: str = 'merge'
    serializer: Serializer = field(default_factory=JSONSerializer)
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    max_size: int = 1024 * 1024
    max_sessions_per_user: int | None = None
    user_field: str = 'user_id'
    cookie_name: str = 'session'
    cookie_path: str = '/'
    cookie_domain: str | None = None
    cookie_secure: bool | None = None
    cookie_httponly: bool = True
    cookie_samesite: str = 'Lax'
    cookie_max_age: float | None = 86400.0
    cookie_partitioned: bool = False
    #: ``cookie_max_age`` is not set: the browser keeps the cookie as long
    #: as the session lives, also after ``set_expiry``.
    cookie_follows_expiry: bool = True

    def masked(self) -> dict[str, Any]:
        """Return all settings for showing them, without what is secret."""
        shown = {name: getattr(self, name) for name in self.__dict__}
        del shown['cookie_follows_expiry']
        for name in ('secret', 'encryption_keys'):
            count = len(shown[name])
            shown[name] = f'({count} not shown)' if count else None
        if self.url is not None:
            # A password may be before the host, or in the query.
            shown['url'] = re.sub(r':.*', '://(not shown)', str(self.url))
        options = [name for name, _ in self.engine_options]
        shown['engine_options'] = ', '.join(options)
        if self.cookie_secure is None:
            shown['cookie_secure'] = 'auto'
        return shown


def _error(key: str, value: object, problem: str) -> ConfigurationError:
    # Before it is cut: the end of a password may be what is recognised.
    shown = _without_passwords(repr(value))
    if len(shown) > 200:
        shown = f'{shown[:197]}...'
    # The problem may quote a part of the value.
    problem = _without_passwords(problem)
    return ConfigurationError(f'{PREFIX}{key} = {shown}: {problem}')


def _without_passwords(text: str) -> str:
    """Return *text* without those in URLs, which get under any key."""
    text = re.sub(r'://.*@', '://(not shown)@', text, flags=re.DOTALL)
    return re.sub(
        r"""(?i)(pass\w*['"]?\s*[=:]\s*['"]?)[^&\s'",}]+""",
        r'\1(not shown)', text,
    )


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Return the :class:`Settings` found under the prefix in *given*.

    :raises ConfigurationError: for an unknown key, a bad value or an
        impossible combination.
    """
    values: dict[str, Any] = {}
    engine_options = []
    for key, value in given.items():
        if not isinstance(key, str) or not key.startswith(PREFIX):
            continue
        name = key[len(PREFIX):]
        if name.startswith('engine.'):
            engine_options.append((name, value))
        elif name in _READERS:
            values[name] = _read(name, value)
        else:
            raise _unknown(key, value)
    values = {k: v for k, v in values.items() if v is not UNSET}
    values['engine_options'] = tuple(sorted(engine_options))
    _fill_in(values)
    settings = Settings(**values)
    _check(settings, {
        name: given[PREFIX + name] for name in values if PREFIX + name in given
    })
    return settings


def _unknown(key: str, value: object) -> ConfigurationError:
    name = key[len(PREFIX):]
    shown = _without_passwords(repr(value))
    near = difflib.get_close_matches(name.lower(), _READERS, n=1, cutoff=0.5)
    hint = f'did you mean {PREFIX}{near[0]}?' if near else (
        'the settings are ' + ', '.join(sorted(_READERS))
    )
    if set(near) & _SECRET or re.search('secret|key|url|uri|pass', name):
        shown = '(not shown)'
    return ConfigurationError(f'{key} = {shown}: unknown setting, {hint}')


def _read(name: str, value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
        if not value:
            # An empty value in an ini file stands for "not set".
            return UNSET
    if value is None:
        return UNSET
    return _READERS[name](name, value)


def _fill_in(values: dict[str, Any]) -> None:
    """Set the defaults that depend on other settings."""
    expiration = values.get('expiration', Settings.expiration)
    values['cookie_follows_expiry'] = 'cookie_max_age' not in values
    max_age = values.setdefault('cookie_max_age', expiration)
    if 'touch_interval' not in values:
        shortest = min(expiration, max_age or expiration)
        values['touch_interval'] = min(Settings.touch_interval, shortest / 10)


def _check(settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse combinations that cannot work.

    :param given: the settings that are set, as they were written.
    """
    _check_timeouts(settings, given)
    _check_cookie(settings, given)
    if settings.url is None:
        for name, value in settings.engine_options:
            hidden = re.search('pass|args|secret|key|url', name)
            raise _error(
                name, '(not shown)' if hidden else value,
                f'is only used with {PREFIX}url, which is not set',
            )
    elif 'dbsession' in given:
        raise _error(
            'dbsession', settings.dbsession,
            f'cannot be used together with {PREFIX}url: the sessions live '
            f'either in the database of the application or in one of their '
            f'own',
        )
    elif settings.engine is not None:
        raise _error(
            'engine', settings.engine,
            f'cannot be used together with {PREFIX}url, which makes one',
        )
    if settings.model is not None:
        for name in ('table_name', 'schema', 'additional_fields'):
            if name in given:
                raise _error(
                    name, given[name],
                    f'must not be set together with {PREFIX}model: remove '
                    f'it, and say it in the class{_IN_CLASS[name]}',
                )


_IN_CLASS = {
    'table_name': ' (__tablename__)',
    'schema': ' (__table_args__)',
    'additional_fields': ' (user_id: Mapped[int | None] = mapped_column())',
}


def _check_timeouts(settings: Settings, given: Mapping[str, Any]) -> None:
    absolute = settings.absolute_timeout
    if absolute is not None and settings.expiration > absolute:
        raise _clash(
            settings, given, ('expiration', 'must not be above'),
            ('absolute_timeout', 'must not be below'),
        )
    for limit in ('expiration', 'cookie_max_age'):
        seconds = getattr(settings, limit)
        if (
            seconds is not None and settings.touch_interval >= seconds
            # Or there is nothing that could come too late.
            and not settings.disable_touch
        ):
            raise _clash(
                settings, given, ('touch_interval', 'must be below'),
                (limit, 'must be above'),
                f', or sessions in use would run out; to extend them only '
                f'when they are saved, set {PREFIX}disable_touch = true',
            )
    interval = settings.renewal_interval
    if interval is not None and settings.renewal_grace >= interval:
        raise _clash(
            settings, given, ('renewal_grace', 'must be below'),
            ('renewal_interval', 'must be above'),
        )


def _clash(
    settings: Settings, given: Mapping[str, Any], one: tuple[str, str],
    other: tuple[str, str], why: str = '',
) -> ConfigurationError:
    """Return the error for two durations that do not go together.

    It blames the one that is set.

    :param one: a name, and what its value must be to the other one's.
    """
    if one[0] not in given:
        one, other = other, one
    name, problem = one
    theirs = PREFIX + other[0]
    if other[0] in given:
        theirs += f' = {given[other[0]]}'
    else:
        theirs += f' = {spoken(getattr(settings, other[0]))} (the default)'
    return _error(name, given[name], f'{problem} {theirs}{why}')


def spoken(seconds: float) -> str:
    """Return *seconds* as one would write them in an ini file."""
    for unit, length in (('h', 3600), ('m', 60)):
        # 60s rather than 1m: it is what everybody writes.
        if seconds % length == 0 and seconds // length > 1:
            return f'{seconds // length:g}{unit}'
    return f'{seconds:g}s'


def _check_cookie(settings: Settings, given: Mapping[str, Any]) -> None:
    name = settings.cookie_name
    insecure = settings.cookie_secure is False
    if name.lower().startswith(('__host-', '__secure-')) and insecure:
        raise _error(
            'cookie_secure', given['cookie_secure'],
            f'browsers refuse the cookie {name!r} without Secure: set it to '
            f'true, or choose another {PREFIX}cookie_name',
        )
    if name.lower().startswith('__host-'):
        if settings.cookie_domain is not None:
            raise _error(
                'cookie_domain', settings.cookie_domain,
                f'browsers refuse the cookie {name!r} with a domain',
            )
        if settings.cookie_path != '/':
            raise _error(
                'cookie_path', settings.cookie_path,
                f'browsers accept the cookie {name!r} only with the path /',
            )
    always_secure = settings.cookie_secure is True
    if settings.cookie_samesite == 'None' and not always_secure:
        raise _error(
            'cookie_samesite', given['cookie_samesite'],
            f'browsers refuse it without Secure: set {PREFIX}cookie_secure '
            f'= true',
        )
    if settings.cookie_partitioned and not always_secure:
        raise _error(
            'cookie_partitioned', given['cookie_partitioned'],
            f'browsers refuse it without Secure: set {PREFIX}cookie_secure '
            f'= true',
        )


# -- readers: one for each kind of value --------------------------------------

_UNITS = {'s': 1.0, 'm': 60.0, 'h': 3600.0, 'd': 86400.0}
#: Settings whose value is not shown in errors.
_SECRET = {'secret', 'encryption_keys', 'url', 'engine'}
_DURATION = (
    'give a number of seconds, or a number with a unit such as 90s, 15m, '
    '24h, 7d or 1h30m'
)


def duration(value: Any) -> float:
    """Return seconds from a number, a timedelta or text such as ``1h30m``.

    :raises ValueError: if it is none of them.
    """
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_DURATION)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(_DURATION) from None
    if not math.isfinite(seconds):
        raise ValueError(_DURATION)
    return seconds


def _parsed(text: str) -> float:
    if re.fullmatch(r'[+-]?[0-9]+(\.[0-9]+)?', text, re.ASCII):
        return float(text)
    match = re.fullmatch(
        r'(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s)?',
        text.lower(), re.ASCII,
    )
    if match is None or not any(match.groups()):
        raise ValueError(_DURATION)
    return sum(
        float(number or 0) * _UNITS[unit]
        for number, unit in zip(match.groups(), 'dhms', strict=True)
    )


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = duration(value)
    except ValueError as error:
        raise _error(name, value, f'not a duration, {error}') from None
    if seconds > _LONGEST:
        raise _error(name, value, 'at most 100 years are possible')
    return seconds


def _interval(name: str, value: Any) -> float:
    try:
        return _seconds(name, value)
    except ConfigurationError as error:
        raise ConfigurationError(f'{error}; 0 is never') from None


def _positive(name: str, value: Any) -> float:
    seconds = _seconds(name, value)
    if seconds <= 0:
        raise _error(name, value, f'must be above 0; {_DURATION}')
    return seconds


def _not_negative(name: str, value: Any) -> float:
    seconds = _seconds(name, value)
    if seconds < 0:
        raise _error(name, value, f'must not be below 0; {_DURATION}')
    return seconds


def _max_age(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.lower() == 'session':
        return None
    try:
        seconds = duration(value)
    except ValueError as error:
        raise _error(
            name, value,
            f"not a duration, {error}; or 'session' for a cookie that ends "
            f'with the browser',
        ) from None
    if not 1 <= seconds <= _LONGEST:
        raise _error(
            name, value,
            "must be at least 1 second and at most 100 years, or 'session'",
        )
    return seconds


_TRUE = ('true', 'yes', 'on', 'y', 't', '1')
_FALSE = ('false', 'no', 'off', 'n', 'f', '0')


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise _error(name, value, 'must be true or false')


def _secure(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.lower() == 'auto':
        return UNSET
    try:
        return _flag(name, value)
    except ConfigurationError:
        raise _error(name, value, 'must be auto, true or false') from None


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    def read(name: str, value: Any) -> str:
        for word in allowed:
            if str(value).lower() == word.lower():
                return word
        raise _error(name, value, f'must be one of {", ".join(allowed)}')

    return read


def _count(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        raise _error(name, value, 'must be a whole number') from None
    if number < 1:
        raise _error(name, value, 'must be at least 1')
    return number


_SIZES = {
    '': 1, 'b': 1,
    'kb': 1000, 'mb': 1000**2, 'gb': 1000**3,
    'kib': 1024, 'mib': 1024**2, 'gib': 1024**3,
}


def _size(name: str, value: Any) -> int:
    problem = (
        'must be a number of bytes, or one with a unit such as 64KiB, at '
        'least 2 and at most 1GiB'
    )
    match = re.fullmatch(
        r'([0-9]{1,15})\s*([a-z]*)', str(value).lower(), re.ASCII
    )
    if match is None or match[2] not in _SIZES:
        raise _error(name, value, problem)
    size = int(match[1]) * _SIZES[match[2]]
    # 1 GiB is what a text column of PostgreSQL holds.
    if not 2 <= size <= 1024**3:
        raise _error(name, value, problem)
    return size


def _words(name: str, value: Any) -> tuple[str, ...]:
    given = value.split() if isinstance(value, str) else value
    if (
        not isinstance(given, Iterable)
        or not all(isinstance(word, str) and word for word in given)
        or not (words := tuple(given))
    ):
        raise _error(name, '(not shown)', 'must be text, or a list of texts')
    return words


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _error(name, value, 'must be text')
    return value


def _identifier(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise _error(name, value, 'must be the name of a request attribute')
    return value


def _table_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r'[^\W\d]\w{0,62}', value
    ):
        raise _error(
            name, value,
            'must be a name of at most 63 letters, digits and underscores',
        )
    return value


def _field_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise _error(name, value, 'must be the name of an additional field')
    return value


def _url(name: str, value: Any) -> Any:
    # A sqlalchemy.URL object is passed through as it is.
    return value


def _resolved(
    what: str, fits: Callable[[Any], bool]
) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        found = _resolve(name, value, what) if isinstance(
            value, str
        ) else value
        if not fits(found):
            raise _error(name, value, f'must be the dotted name of {what}')
        return found

    return read


def _resolve(name: str, value: str, what: str) -> Any:
    try:
        return DottedNameResolver(None).resolve(value)
    except Exception as error:
        raise _error(
            name, value,
            f'cannot be imported ({type(error).__name__}: {error}); it must '
            f'be the dotted name of {what}',
        ) from error


def _serializer(name: str, value: Any) -> Serializer:
    what = 'an object with dumps and loads'
    if isinstance(value, str) and value.lower() == 'json':
        return JSONSerializer()
    found = _resolve(name, value, what) if isinstance(value, str) else value
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise _error(
                name, value, f'cannot be made without arguments: {error}'
            ) from error
    if _can_run_code(found):
        raise _error(
            name, value,
            'must not be able to run code: whoever can write to the table '
            'could run theirs here',
        )
    for method in ('dumps', 'loads'):
        if not callable(getattr(found, method, None)):
            raise _error(
                name, value,
                f"must be 'json' or the dotted name of {what}; it has no "
                f'{method}',
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
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def _cookie_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise _error(
            name, value,
            "must consist of letters, digits and !#$%&'*+-.^_`|~ (RFC 6265)",
        )
    return value


def _cookie_path(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r'/[\x21-\x3a\x3c-\x7e]*', value
    ):
        raise _error(
            name, value,
            'must begin with / and be ASCII without blanks and semicolons',
        )
    return value


def _cookie_domain(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(
        r'\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*', value, re.ASCII
    ):
        raise _error(name, value, 'must be a host name such as example.com')
    return value


def read_fields(value: Any) -> tuple[Field, ...]:
    """Return the fields that a value of ``additional_fields`` describes.

    :raises ConfigurationError: if it describes none.
    """
    return _fields('additional_fields', value)


def _fields(name: str, value: Any) -> tuple[Field, ...]:
    if isinstance(value, Mapping):
        fields = [
            parse_field(f'{key}: {kind}')
            if isinstance(kind, str)
            else Field(_column(key, key), kind)
            for key, kind in value.items()
        ]
    else:
        lines = value.splitlines() if isinstance(value, str) else value
        if not isinstance(lines, Iterable):
            raise _error(name, value, _FIELD)
        fields = [
            line if isinstance(line, Field) else parse_field(line)
            for line in lines
            if isinstance(line, Field) or str(line).strip()
        ]
    seen = set()
    for one in fields:
        # Some databases do not tell A from a.
        if one.name.lower() in seen:
            raise _error(name, one.name, 'is given twice')
        seen.add(one.name.lower())
    return tuple(fields)


_FIELD = (
    'a field is written "name: Type[(args)] [index] [unique] [not null]", '
    'one per line, for example "user_id: Integer index" or '
    '"note: String(64)"'
)
_FIELD_LINE = re.compile(
    r'\s*(?P<name>[^\s:]+)\s*:\s*(?P<type>[^\s(]+)\s*(?P<args>\(.*\))?'
    r'\s*(?P<flags>[^()]*)'
)


def parse_field(line: str) -> Field:
    """Return the field that a line of ``additional_fields`` describes.

    :raises ConfigurationError: naming the line.
    """
    match = _FIELD_LINE.fullmatch(str(line))
    if match is None:
        raise _error('additional_fields', line, _FIELD)
    flags = ' '.join(match['flags'].lower().split())
    options = {'index': False, 'unique': False, 'not null': False}
    for flag in re.findall(r'not null|\S+', flags):
        if flag not in options:
            raise _error(
                'additional_fields', line,
                f'{flag!r} is not one of index, unique, not null; {_FIELD}',
            )
        options[flag] = True
    args, kwargs = _arguments(line, match['args'] or '()')
    return Field(
        _column(match['name'], line), match['type'], args, kwargs,
        index=options['index'], unique=options['unique'],
        nullable=not options['not null'],
    )


def _column(name: Any, line: object) -> str:
    if (
        not isinstance(name, str)
        or not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]{0,62}', name)
    ):
        raise _error(
            'additional_fields', line,
            f'{name!r} is not a name of ASCII letters, digits and '
            f'underscores that begins with a letter',
        )
    if keyword.iskeyword(name):
        raise _error(
            'additional_fields', line,
            f'{name!r} is a word of Python: give the field another name',
        )
    if name.lower() in TABLE_COLUMNS:
        raise _error(
            'additional_fields', line,
            f'{name!r} is the name of a column that the table has already',
        )
    if name in TAKEN:
        raise _error(
            'additional_fields', line,
            f'{name!r} {TAKEN[name]}: give the field another name',
        )
    return name


def _arguments(
    line: str, text: str
) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
    try:
        call = ast.parse(f'f{text}', mode='eval').body
        if not isinstance(call, ast.Call) or (
            not isinstance(call.func, ast.Name)
        ):
            raise ValueError
        return (
            tuple(ast.literal_eval(arg) for arg in call.args),
            tuple(
                (str(word.arg), ast.literal_eval(word.value))
                for word in call.keywords
            ),
        )
    except (SyntaxError, ValueError):
        raise _error(
            'additional_fields', line,
            f'the arguments {text} must be numbers, quoted texts, True or '
            f'False; {_FIELD}',
        ) from None


_READERS: dict[str, Callable[[str, Any], Any]] = {
    'secret': _words,
    'dbsession': _identifier,
    'url': _url,
    'engine': _resolved(
        'an Engine or of a function f(registry) -> Engine',
        lambda found: callable(found) or hasattr(found, 'dialect'),
    ),
    'model': _resolved(
        'a mapped class built on SessionMixin',
        lambda found: isinstance(found, type),
    ),
    'table_name': _table_name,
    'schema': _string,
    'create_table': _flag,
    'additional_fields': _fields,
    'extend_default_fields': _resolved(
        'a function f(defaults, session, request) -> dict', callable,
    ),
    'expiration': _positive,
    'absolute_timeout': _positive,
    'touch_interval': _not_negative,
    'disable_touch': _flag,
    'check_expiration_interval': _interval,
    'renewal_interval': _positive,
    'renewal_grace': _not_negative,
    'conflict': _choice('merge', 'retry'),
    'serializer': _serializer,
    'encryption_keys': _words,
    'max_size': _size,
    'max_sessions_per_user': _count,
    'user_field': _field_name,
    'cookie_name': _cookie_name,
    'cookie_path': _cookie_path,
    'cookie_domain': _cookie_domain,
    'cookie_secure': _secure,
    'cookie_httponly': _flag,
    'cookie_samesite': _choice('Lax', 'Strict', 'None'),
    'cookie_max_age': _max_age,
    'cookie_partitioned': _flag,
}
