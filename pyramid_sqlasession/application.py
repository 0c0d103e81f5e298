"""What one application has: settings, engine, table, clock, and the parts
made of them.  Two applications in a process share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
import datetime as dt
import logging
import threading
from typing import Any

from pyramid.exceptions import ConfigurationError
import sqlalchemy as sa
from zope.interface import implementedBy

from pyramid_sqlasession.care import Care
from pyramid_sqlasession.codec import Codec
from pyramid_sqlasession.cookie import CookiePolicy
from pyramid_sqlasession.database import Database
from pyramid_sqlasession.expiry import Expiry
from pyramid_sqlasession.fields import Fields
from pyramid_sqlasession.metrics import watcher
from pyramid_sqlasession.model import model_of
from pyramid_sqlasession.notices import Notices
from pyramid_sqlasession.records import Records
from pyramid_sqlasession.saving import Saver
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.translation import Seldom
from pyramid_sqlasession.whereabouts import Whereabouts

log = logging.getLogger(__name__)

#: Where the registry keeps the :class:`Application`.
REGISTRY_KEY = 'sqlasession'


def utcnow() -> dt.datetime:
    """Return the current time, aware UTC: the one clock (E4)."""
    # The class is asked for each time: freezegun, in tests, puts another one
    # in its place.
    return dt.datetime.now(dt.UTC)


class Application:
    """The parts of one application, found at ``registry['sqlasession']``."""

    def __init__(self, registry: Any, settings: Settings) -> None:
        self.registry = registry
        self.settings = settings
        #: Whether the sessions have an engine of their own (``url``).
        self.has_own_database = settings.url is not None
        self.model = model_of(settings)
        self.records = Records(self.model)
        self.database = Database(registry, settings, self.model, self.records)
        self.whereabouts = Whereabouts(self.records.table)
        self.fields = Fields(self.model, lambda: self.engine.dialect)
        self.codec = Codec(settings)
        self.expiry = Expiry(settings)
        self.cookies = CookiePolicy(settings)
        _check_user_field(settings, self.fields)
        self.saver = Saver(
            settings, self.records, self.fields, self.codec, self.expiry
        )
        self.care = Care(
            settings, self.records, self.fields, self.codec, self.expiry
        )
        #: Replace it to freeze the time in tests.
        self.now: Callable[[], dt.datetime] = utcnow
        #: Told what becomes of sessions.
        self.watcher = watcher()
        #: Whether requests keep their dbsession in their __dict__; None until
        #: the first one has come.
        self.keeps_dbsession: bool | None = None
        self.notices = Notices(settings)
        #: How often the log hears of sessions that an outage loses.
        self.losses = Seldom()
        #: The same, of suspicious cookies.
        self.suspicions = Seldom()
        #: Set when the application is created, if there is one.
        self.cleaner: Any = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> sa.Engine:
        """The engine for what runs outside of the request's transaction.

        :raises ConfigurationError: if there is none.
        """
        return self.database.engine

    def live(self) -> sa.ColumnElement[bool]:
        """Return which records live now.

        By the absolute timeout, too: it may have been set, or lowered, after
        they were stored.
        """
        now = self.now()
        return self.records.live(now, self.expiry.oldest(now))

    def ensure_cleaner(self, make: Callable[[Application], Any]) -> Any:
        """Return the cleaner, made by the first call of all threads."""
        with self._lock:
            if self.cleaner is None:
                self.cleaner = make(self)
            return self.cleaner

    def has_subscriber(self, kind: type) -> bool:
        """Return whether an event of this class would reach anybody."""
        found = self.registry.adapters.subscriptions(
            (implementedBy(kind),), None
        )
        return bool(found)

    def notify(self, event: object) -> None:
        """Send *event*; an error in a subscriber is logged."""
        try:
            self.registry.notify(event)
        except Exception:
            log.exception('a subscriber to %r failed', event)


def found_in(registry: Any) -> Application | None:
    """Return the :class:`Application` of *registry*, if there is one."""
    # Fixtures are given whatever a test has.
    found = registry.get(REGISTRY_KEY) if isinstance(registry, dict) else None
    return found if isinstance(found, Application) else None


def _check_user_field(settings: Settings, fields: Fields) -> None:
    if settings.max_sessions_per_user is None:
        return
    column = fields.columns.get(settings.user_field)
    if column is not None and isinstance(column.type, sa.JSON):
        raise ConfigurationError(
            f'sqlasession.user_field = {settings.user_field}: is JSON, and '
            f'databases do not compare JSON; sqlasession.'
            f'max_sessions_per_user needs an Integer, a String or the like'
        )
    if column is None:
        names = ', '.join(sorted(fields.columns)) or 'none'
        raise ConfigurationError(
            f'sqlasession.max_sessions_per_user = '
            f'{settings.max_sessions_per_user}: needs the additional field '
            f'{settings.user_field!r} (sqlasession.user_field); there are: '
            f'{names}'
        )
