"""From ini strings or Python objects to frozen :class:`Settings`.

Every error names the full key, the value and what is allowed.  What a single
one may be is in values.py; here is what they are together.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import difflib
import re
from typing import Any

from pyramid.exceptions import ConfigurationError

from pyramid_sqlasession import values
from pyramid_sqlasession.declarations import Field
from pyramid_sqlasession.declarations import read_fields
from pyramid_sqlasession.durations import spoken
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.serializers import Serializer
from pyramid_sqlasession.values import bad_value
from pyramid_sqlasession.values import is_hidden
from pyramid_sqlasession.values import PREFIX
from pyramid_sqlasession.values import without_passwords

# In small letters (RFC 6265bis, section 4.1.3; those with "http" are newer,
# and ask for ``HttpOnly``, too).
_SECURE_PREFIXES = ('__secure-', '__host-', '__http-')

#: In the place of the first of ``encryption_keys``: nothing is encrypted yet,
#: or any more, and the keys behind it only read.  Behind a ``secret``: cookies
#: without a signature are good ones, too.
PLAIN = 'none'


@dataclass(frozen=True)
class Settings:
    """The effective settings of one application; durations in seconds, sizes
    in bytes.
    """

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
    #: None is ``auto``: by the scheme of each request.
    cookie_secure: bool | None = None
    cookie_httponly: bool = True
    cookie_samesite: str = 'Lax'
    #: None is ``session``: until the browser closes.
    cookie_max_age: float | None = 86400.0
    cookie_partitioned: bool = False
    #: ``cookie_max_age`` is not set: the browser keeps the cookie as long
    #: as the session lives, also after ``set_expiry``.
    cookie_follows_expiry: bool = True

    @property
    def name_demands_secure(self) -> bool:
        """Whether browsers refuse a cookie of this name without ``Secure``."""
        return self.cookie_name.lower().startswith(_SECURE_PREFIXES)

    def masked(self) -> dict[str, Any]:
        """Return all settings for showing them, without what is secret."""
        shown = dict(vars(self))
        del shown['cookie_follows_expiry']
        for name in ('secret', 'encryption_keys'):
            count = len(shown[name])
            shown[name] = f'({count} not shown)' if count else None
        if self.encryption_keys[:1] == (PLAIN,):
            count = len(self.encryption_keys) - 1
            shown['encryption_keys'] = f'{PLAIN} ({count} not shown)'
        if self.url is not None:
            # A password may be before the host, or in the query.
            shown['url'] = re.sub(r':.*', '://(not shown)', str(self.url))
        options = [name for name, _ in self.engine_options]
        shown['engine_options'] = ', '.join(options)
        if self.cookie_secure is None:
            shown['cookie_secure'] = 'auto'
        return shown


def settings_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under the prefix, as they are given."""
    return {
        key: value for key, value in given.items()
        if isinstance(key, str) and key.startswith(PREFIX)
    }


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Return the :class:`Settings` found under the prefix in *given*.

    :raises ConfigurationError: for an unknown key, a bad value or an
        impossible combination.
    """
    found: dict[str, Any] = {}
    engine_options = []
    for key, value in settings_in(given).items():
        name = key[len(PREFIX):]
        if name.startswith('engine.'):
            if not _is_empty(value):
                engine_options.append((name, value))
        elif name in _READERS:
            found[name] = _read(name, value)
        else:
            raise _unknown(key, value)
    found = {k: v for k, v in found.items() if v is not values.UNSET}
    found['engine_options'] = tuple(sorted(engine_options))
    _fill_in(found)
    settings = Settings(**found)
    _check(settings, {
        name: given[PREFIX + name] for name in found if PREFIX + name in given
    })
    return settings


def _unknown(key: str, value: object) -> ConfigurationError:
    name = key[len(PREFIX):]
    shown = without_passwords(repr(value))
    near = difflib.get_close_matches(name.lower(), _READERS, n=1, cutoff=0.5)
    hint = f'did you mean {PREFIX}{near[0]}?' if near else (
        'the settings are ' + ', '.join(sorted(_READERS))
    )
    if set(near) & _SECRET or re.search('secret|key|url|uri|pass', name):
        shown = '(not shown)'
    return ConfigurationError(f'{key} = {shown}: unknown setting, {hint}')


def _is_empty(value: Any) -> bool:
    """Return whether an ini file says with *value* that it is not set."""
    return value is None or (isinstance(value, str) and not value.strip())


def _read(name: str, value: Any) -> Any:
    if _is_empty(value):
        return values.UNSET
    if isinstance(value, str):
        value = value.strip()
    try:
        return _READERS[name](value)
    except values.Refused as error:
        shown = '(not shown)' if _READERS[name] is values.words else value
        raise bad_value(name, shown, str(error)) from error.__cause__


def _fill_in(found: dict[str, Any]) -> None:
    """Set the defaults that depend on other settings."""
    expiration = found.get('expiration', Settings.expiration)
    found['cookie_follows_expiry'] = 'cookie_max_age' not in found
    max_age = found.setdefault('cookie_max_age', expiration)
    if 'touch_interval' not in found:
        shortest = min(expiration, max_age or expiration)
        found['touch_interval'] = min(Settings.touch_interval, shortest / 10)


def _check(settings: Settings, given: Mapping[str, Any]) -> None:
    """Refuse combinations that cannot work.

    :param given: the settings that are set, as they were written.
    """
    _check_timeouts(settings, given)
    _check_cookie(settings, given)
    if settings.secret[:1] == (PLAIN,):
        raise bad_value(
            'secret', PLAIN,
            f'stands behind a secret, as in "SECRET {PLAIN}", where cookies '
            f'without a signature are good ones, too; without any remove the '
            f'setting',
        )
    if settings.url is None:
        for name, value in settings.engine_options:
            raise bad_value(
                name, '(not shown)' if is_hidden(name) else value,
                f'is only used with {PREFIX}url, which is not set',
            )
    elif 'engine.url' in dict(settings.engine_options):
        raise bad_value(
            'engine.url', '(not shown)',
            f'must not be set together with {PREFIX}url, which it would '
            f'replace: remove it',
        )
    elif 'dbsession' in given:
        raise bad_value(
            'dbsession', settings.dbsession,
            f'cannot be used together with {PREFIX}url: the sessions live '
            f'either in the database of the application or in one of their '
            f'own',
        )
    elif settings.engine is not None:
        raise bad_value(
            'engine', settings.engine,
            f'cannot be used together with {PREFIX}url, which makes one',
        )
    if settings.model is not None:
        for name in ('table_name', 'schema', 'additional_fields'):
            if name in given:
                raise bad_value(
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
    return bad_value(name, given[name], f'{problem} {theirs}{why}')


def _check_cookie(settings: Settings, given: Mapping[str, Any]) -> None:
    name = settings.cookie_name
    if settings.name_demands_secure and settings.cookie_secure is False:
        raise bad_value(
            'cookie_secure', given['cookie_secure'],
            f'browsers refuse the cookie {name!r} without Secure: set it to '
            f'true, or choose another {PREFIX}cookie_name',
        )
    if name.lower().startswith('__host-'):
        if settings.cookie_domain is not None:
            raise bad_value(
                'cookie_domain', settings.cookie_domain,
                f'browsers refuse the cookie {name!r} with a domain',
            )
        if settings.cookie_path != '/':
            raise bad_value(
                'cookie_path', settings.cookie_path,
                f'browsers accept the cookie {name!r} only with the path /',
            )
    if name.lower().startswith(('__http-', '__host-http-')) and (
        not settings.cookie_httponly
    ):
        raise bad_value(
            'cookie_httponly', given['cookie_httponly'],
            f'browsers refuse the cookie {name!r} without HttpOnly: set it '
            f'to true, or choose another {PREFIX}cookie_name',
        )
    for key, needs_secure in (
        ('cookie_samesite', settings.cookie_samesite == 'None'),
        ('cookie_partitioned', settings.cookie_partitioned),
    ):
        if needs_secure and settings.cookie_secure is not True:
            raise bad_value(
                key, given[key],
                f'browsers refuse it without Secure: set '
                f'{PREFIX}cookie_secure = true',
            )


#: Settings of whose value nothing is shown if their name is misspelt.
_SECRET = {'secret', 'encryption_keys', 'url', 'engine'}


_READERS: dict[str, Callable[[Any], Any]] = {
    'secret': values.words,
    'dbsession': values.identifier,
    'url': values.url,
    'engine': values.dotted_name_of(
        'an Engine or of a function f(registry) -> Engine',
        lambda found: callable(found) or hasattr(found, 'dialect'),
    ),
    'model': values.dotted_name_of(
        'a mapped class built on SessionMixin',
        lambda found: isinstance(found, type),
    ),
    'table_name': values.table_name,
    'schema': values.text,
    'create_table': values.flag,
    'additional_fields': read_fields,
    'extend_default_fields': values.dotted_name_of(
        'a function f(defaults, session, request) -> dict', callable,
    ),
    'expiration': values.positive,
    'absolute_timeout': values.positive,
    'touch_interval': values.not_negative,
    'disable_touch': values.flag,
    'check_expiration_interval': values.interval,
    'renewal_interval': values.positive,
    'renewal_grace': values.not_negative,
    'conflict': values.choice_of('merge', 'retry'),
    'serializer': values.serializer,
    'encryption_keys': values.words,
    'max_size': values.size,
    'max_sessions_per_user': values.count,
    'user_field': values.field_name,
    'cookie_name': values.cookie_name,
    'cookie_path': values.cookie_path,
    'cookie_domain': values.cookie_domain,
    'cookie_secure': values.secure,
    'cookie_httponly': values.flag,
    'cookie_samesite': values.choice_of('Lax', 'Strict', 'None'),
    'cookie_max_age': values.max_age,
    'cookie_partitioned': values.flag,
}
