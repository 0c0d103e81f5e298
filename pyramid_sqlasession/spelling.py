"""The settings as one would write them in an ini file, without secrets."""

from __future__ import annotations

from typing import Any

from pyramid_sqlasession.declarations import Field
from pyramid_sqlasession.durations import spoken
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.values import PREFIX


def spelled(settings: Settings) -> list[tuple[str, str, bool]]:
    """Return (key, value, whether it is the default) of all settings."""
    defaults = _written(Settings())
    return [
        (PREFIX + name, value, value == defaults[name])
        for name, value in _written(settings).items()
    ]


def _written(settings: Settings) -> dict[str, str]:
    """Return name to value, as one would write them in an ini file."""
    written = {
        'engine.*' if name == 'engine_options' else name: _words(value)
        for name, value in settings.masked().items()
    }
    if settings.cookie_follows_expiry:
        written['cookie_max_age'] = 'as expiration'
    elif settings.cookie_max_age is None:
        written['cookie_max_age'] = 'session'
    if type(settings.serializer) is JSONSerializer:
        written['serializer'] = 'json'
    written['max_size'] = _size(settings.max_size)
    return written


def _words(value: Any) -> str:
    if value in (None, (), ''):
        return 'none'
    if isinstance(value, tuple):
        return ', '.join(map(_words, value))
    if isinstance(value, Field):
        return _field(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # All of them are durations.
        return spoken(value)
    if isinstance(value, str | int):
        return str(value)
    named = value if hasattr(value, '__qualname__') else type(value)
    return f'{named.__module__}.{named.__qualname__}'


def _field(field: Field) -> str:
    flags = (
        ('index', field.index), ('unique', field.unique),
        ('not null', not field.nullable),
    )
    words = [word for word, is_set in flags if is_set]
    kind = _words(field.type) + field.arguments
    return f'{field.name}: {" ".join([kind, *words])}'


def _size(count: int) -> str:
    for unit, length in (('MiB', 1024**2), ('KiB', 1024)):
        if count % length == 0:
            return f'{count // length}{unit}'
    return str(count)
