"""Registers everything with a Configurator; starts and stops the cleaner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
import logging
from typing import Any

from pyramid.config import PHASE1_CONFIG
from pyramid.events import ApplicationCreated
from pyramid.events import NewResponse
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IExecutionPolicy
from pyramid.interfaces import IRequestExtensions
from pyramid.interfaces import IRequestFactory
from pyramid.interfaces import ISessionFactory
from pyramid.request import Request
from pyramid.router import default_execution_policy
import sqlalchemy as sa
from zope.interface.registry import Components

from pyramid_sqlasession import advice
from pyramid_sqlasession import faults
from pyramid_sqlasession import pooling
from pyramid_sqlasession.answering import Answer
from pyramid_sqlasession.application import Application
from pyramid_sqlasession.application import found_in
from pyramid_sqlasession.application import REGISTRY_KEY
from pyramid_sqlasession.attempts import rewind
from pyramid_sqlasession.cleaner import Cleaner
from pyramid_sqlasession.connections import Connections
from pyramid_sqlasession.errors import shown
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.response import take_foreign_cookies
from pyramid_sqlasession.savepoints import follow_savepoints
from pyramid_sqlasession.session import SQLASession
from pyramid_sqlasession.settings import read_settings
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.settings import settings_in
from pyramid_sqlasession.store import SessionStore
from pyramid_sqlasession.transaction import BEFORE_RETRY

log = logging.getLogger(__name__)

_INCLUDED = 'sqlasession.included'
#: Where the registry keeps the settings that were read.
_READ = 'sqlasession.read'
_PLACE = "the settings sqlasession.* (config.include('pyramid_sqlasession'))"


def register(config: Any) -> None:
    """Register everything; see ``includeme``."""
    registry = config.registry
    if registry.get(_INCLUDED):
        return
    registry[_INCLUDED] = True
    config.include('pyramid_tm')
    follow_savepoints()
    # At once, too, and not only when the actions are executed: add-ons set one
    # of theirs where they see none.
    registry.registerUtility(_session_factory, ISessionFactory)
    config.set_session_factory(_session_factory)
    config.add_request_method(
        _session_store, name='session_store', reify=True
    )
    config.add_subscriber(_application_created, ApplicationCreated)
    config.add_subscriber(take_foreign_cookies, NewResponse)
    if BEFORE_RETRY is not None:
        config.add_subscriber(rewind, BEFORE_RETRY)
    introspectable = config.introspectable(
        'pyramid_sqlasession', 'settings', 'pyramid_sqlasession', 'settings'
    )

    def configure() -> None:
        # Now, not in includeme: settings made after the include count.
        settings = read_settings(registry.settings or {})
        registry[_READ] = settings_in(registry.settings or {})
        registry[REGISTRY_KEY] = Application(registry, settings)
        introspectable.update(settings.masked())

    # What an error names as its place; "Line 0 of file None" otherwise.
    before, config.info = config.info, _PLACE
    config.action(
        'pyramid_sqlasession', configure, order=PHASE1_CONFIG,
        introspectables=(introspectable,),
    )
    config.info = before


def application_of(registry: Any) -> Application:
    """Return the :class:`Application` of *registry*.

    :raises ConfigurationError: if the package was not included.
    """
    found = found_in(registry)
    if found is None:
        raise ConfigurationError(
            "pyramid_sqlasession is not set up in this application: call "
            "config.include('pyramid_sqlasession') and config.commit() or "
            'make_wsgi_app() first'
        )
    return found


def _session_factory(request: Any) -> SQLASession:
    # Each request pays for it: the other one looks at what it is given.
    registry = request.registry
    application = registry.get(REGISTRY_KEY) or application_of(registry)
    found: SQLASession = Binding(application, request, Answer).session
    return found


def _session_store(request: Any) -> SessionStore:
    application = application_of(request.registry)
    # It holds the request, which holds it: both would wait for the garbage
    # collector.
    request.add_finished_callback(_forget_session_store)
    return SessionStore(
        application, Connections(application, request).perform_for_view
    )


def _forget_session_store(request: Any) -> None:
    request.__dict__.pop('session_store', None)


_is_serving: ContextVar[bool] = ContextVar('is_serving', default=True)


@contextmanager
def not_serving() -> Iterator[None]:
    """Only start applications: no table, no cleaner, no advice.

    For a command that then does one of these, or something else.
    """
    before = _is_serving.set(False)
    try:
        yield
    finally:
        _is_serving.reset(before)


def _application_created(event: Any) -> None:
    registry = event.app.registry
    application = application_of(registry)
    _check_late_settings(registry)
    # Both fail now, not at the first request.
    if not application.has_own_database and (
        _has_dbsession(registry, application)
    ):
        application.database.check_binds()
    _ = application.engine
    if not _is_serving.get():
        return
    advice.give(
        application.settings, registry[_READ], application.fields.columns,
        application.records.table, application.engine,
        lacks_dbsession=_lacks_dbsession(registry, application),
        lacks_retry=_lacks_retry(registry),
        other_factory=_other_factory(registry),
    )
    if application.settings.create_table:
        _create_table(application)
    start_expiring_sessions(registry)


def _check_late_settings(registry: Any) -> None:
    read = registry[_READ]
    for key, value in settings_in(registry.settings or {}).items():
        if key not in read or read[key] != value:
            # Without the value, which may be secret, and need not be wrong.
            raise ConfigurationError(
                f'{key} was set, or changed, when the settings had been read '
                f'already, at config.commit(): set it before'
            )


def _lacks_dbsession(registry: Any, application: Application) -> bool:
    """Return whether there is no ``request.dbsession`` of the name that is
    set; the usual name is not, and an application may have none.
    """
    name = application.settings.dbsession
    if application.has_own_database or name == Settings.dbsession:
        return False
    return not _has_dbsession(registry, application)


def _has_dbsession(registry: Any, application: Application) -> bool:
    """Return whether all requests have a ``request.dbsession``."""
    name = application.settings.dbsession
    extensions = registry.queryUtility(IRequestExtensions)
    factory = registry.queryUtility(IRequestFactory, default=Request)
    return hasattr(factory, name) or (
        extensions is not None
        and name in {**extensions.descriptors, **extensions.methods}
    )


def _other_factory(registry: Any) -> object | None:
    """Return the factory of ``request.session`` that is set in our place:
    Pyramid lets an application override what it includes.
    """
    factory: object = registry.queryUtility(ISessionFactory)
    return None if factory is _session_factory else factory


def _lacks_retry(registry: Any) -> bool:
    """Return whether nothing runs a request again: neither pyramid_retry nor
    a policy that the application has set itself, which may.
    """
    policy = registry.queryUtility(IExecutionPolicy)
    if policy is None or policy is default_execution_policy:
        return True
    settings = registry.settings
    return (
        getattr(policy, '__module__', None) == 'pyramid_retry'
        # pyramid_retry has made a number of it.
        and settings.get('retry.attempts') == 1
        # Which may say otherwise of a request.
        and not settings.get('retry.activate_hook')
    )


def _create_table(application: Application) -> None:
    try:
        missing = application.database.create_table()
    except sa.exc.CompileError as error:
        given = 'sqlasession.additional_fields'
        if application.settings.model is not None:
            given = f'sqlasession.model = {application.settings.model!r}'
        raise ConfigurationError(
            f'{given}: a type does not fit the database '
            f'({application.engine.dialect.name}): {error}'
        ) from error
    except sa.exc.DBAPIError as error:
        hint = ''
        if faults.fault_of(error) is faults.Fault.UNAVAILABLE:
            hint = ', the database has to run when the application starts'
        raise ConfigurationError(
            f'sqlasession.create_table = true: the table '
            f'{application.records.table.fullname!r} cannot be created{hint}: '
            f'{error.orig}'
        ) from error
    # No reason not to start: a migration may follow, and what needs no session
    # works.
    if missing:
        log.error(
            'sqlasession.create_table = true: the table %r was there already, '
            'without %s, which create_table does not add: no session can be '
            'stored. Add what is missing by a migration or by ALTER TABLE '
            '("psessions <your.ini> table --sql" shows how it must be)',
            application.records.table.fullname, ', '.join(missing),
        )


def start_expiring_sessions(app: Any) -> None:
    """Start the cleaner of *app*; nothing happens if it runs, if
    ``sqlasession.check_expiration_interval`` is 0 or less, or if all work
    shares one connection (SQLite in memory).

    :param app: the WSGI application, its registry or a Configurator.
    :raises pyramid.exceptions.ConfigurationError: if the package was not
        included there.
    """
    application = application_of(registry_of(app))
    if application.settings.check_expiration_interval <= 0:
        return
    if pooling.has_one_connection(application.engine):
        # An SQLite database in memory: the thread would work within the
        # transaction of a request.
        if application.engine.url.database not in (None, '', ':memory:'):
            log.warning(
                'expired sessions are not deleted: the engine has one '
                'connection for everything (%s); have another pool, or call '
                'request.session_store.delete_expired() now and then',
                type(application.engine.pool).__name__,
            )
        return
    application.ensure_cleaner(Cleaner).start()


def stop_expiring_sessions(app: Any) -> None:
    """Stop the cleaner of *app*; nothing happens if it does not run.

    Returns within a second, also in the middle of a large clean.

    :param app: the WSGI application, its registry or a Configurator.
    :raises pyramid.exceptions.ConfigurationError: if the package was not
        included there.
    """
    application = application_of(registry_of(app))
    if application.cleaner is not None:
        application.cleaner.stop()


def registry_of(app: Any) -> Any:
    """Return the registry of an application, a Configurator or itself.

    :raises ConfigurationError: if there is none.
    """
    # A WebTest application wraps the one that it tests.
    inner = getattr(app, 'app', None)
    if not hasattr(app, 'registry') and hasattr(inner, 'registry'):
        app = inner
    found = getattr(app, 'registry', app)
    if not isinstance(found, Components):
        raise ConfigurationError(
            f'pyramid_sqlasession is not set up in {shown(app, repr)}, which '
            f'has no registry: give the application that make_wsgi_app() '
            f'returned (no middleware around it), its registry or its '
            f'Configurator'
        )
    return found
