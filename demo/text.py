"""Numbers, times and browsers as people read them (template filters)."""

from datetime import datetime
from datetime import UTC

Moment = datetime | int | float

UNITS = (('day', 86400), ('hour', 3600), ('minute', 60), ('second', 1))

# The first match counts: Edge and Opera also call themselves Chrome, and
# Chrome calls itself Safari.
BROWSERS = (
    ('Edg', 'Edge'),
    ('OPR/', 'Opera'),
    ('Firefox/', 'Firefox'),
    ('HeadlessChrome/', 'Chrome, headless'),
    ('Chrome/', 'Chrome'),
    ('Safari/', 'Safari'),
    ('curl/', 'curl'),
)
SYSTEMS = (
    ('iPhone', 'iPhone'),
    ('iPad', 'iPad'),
    ('Android', 'Android'),
    ('Windows', 'Windows'),
    ('Mac OS X', 'macOS'),
    ('Linux', 'Linux'),
)


def money(cents: int) -> str:
    """Return a price: ``€ 14.50``."""
    return f'€\N{NO-BREAK SPACE}{cents / 100:,.2f}'


def moment(when: Moment) -> str:
    """Return a time for a page: ``23 November 2025, 17:42:05 UTC``."""
    when = _aware(when)
    return f'{when.day} {when:%B %Y, %H:%M:%S} UTC'


def iso(when: Moment) -> str:
    """Return a time for a ``datetime`` attribute."""
    return _aware(when).isoformat(timespec='seconds')


def ago(when: Moment) -> str:
    """Return how long ago something was: ``3 minutes ago``."""
    seconds = (datetime.now(UTC) - _aware(when)).total_seconds()
    return f'{_span(seconds)} ago' if seconds >= 1 else 'just now'


def until(when: Moment) -> str:
    """Return how far off something is: ``in 23 hours 59 minutes``."""
    seconds = (_aware(when) - datetime.now(UTC)).total_seconds()
    return f'in {_span(seconds)}' if seconds >= 1 else 'now'


def browser(user_agent: str | None) -> str:
    """Return a name for a browser: ``Firefox on Linux``."""
    text = user_agent or ''
    name = _first(BROWSERS, text)
    system = _first(SYSTEMS, text)
    if name and system:
        return f'{name} on {system}'
    return name or system or 'An unknown browser'


def _first(table: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((name for mark, name in table if mark in text), None)


def _aware(when: Moment) -> datetime:
    """Take seconds since 1970, and a time without a zone, as UTC."""
    if not isinstance(when, datetime):
        return datetime.fromtimestamp(when, UTC)
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def _span(seconds: float) -> str:
    """Return the two largest units of a time span."""
    left = int(seconds)
    parts: list[str] = []
    for name, length in UNITS:
        count, left = divmod(left, length)
        if count:
            parts.append(f'{count} {name}{"s" if count > 1 else ""}')
        elif parts:
            break
    return ' '.join(parts[:2])
