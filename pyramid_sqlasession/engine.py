"""Which engine the sessions use where no request has a connection: one of
their own, one that is named, or the application's.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import difflib
from typing import Any

from pyramid.exceptions import ConfigurationError
import sqlalchemy as sa
from sqlalchemy import orm

from pyramid_sqlasession import dialects
from pyramid_sqlasession import pooling
from pyramid_sqlasession import values
from pyramid_sqlasession.settings import Settings
from pyramid_sqlasession.values import is_hidden
from pyramid_sqlasession.values import PREFIX
from pyramid_sqlasession.values import without_passwords

_NO_ENGINE = (
    'pyramid_sqlasession finds no engine for what runs outside of requests '
    '(the cleaner, for one). Do one of these: set sqlalchemy.url in the ini '
    "file; have registry['dbsession_factory'] be the sessionmaker of the "
    'application, with its engine as bind; set sqlasession.engine to the '
    'dotted name of a function f(registry) -> Engine; or give the sessions a '
    'database of their own with sqlasession.url'
)


def find_engine(
    registry: Any, settings: Settings, bind_arguments: dict[str, Any]
) -> sa.Engine:
    """Return the engine for what runs outside of the request's transaction.

    :param bind_arguments: of the model, for a SQLAlchemy session.
    :raises ConfigurationError: if there is none, the settings make none, or
        its driver is asynchronous.
    """
    engine = _find(registry, settings, bind_arguments)
    _check_driver(engine, settings)
    return engine


def _find(
    registry: Any, settings: Settings, bind_arguments: dict[str, Any]
) -> sa.Engine:
    if settings.url is not None:
        return _own_engine(settings)
    if settings.engine is not None:
        return _given_engine(registry, settings.engine)
    factory, options = _factory_in(registry)
    bind = options.get('bind')
    if options.get('binds') or _chooses_bind(factory):
        # Of each model its own, as request.dbsession has it.  (A get_bind()
        # may want what only a request has.)
        with contextlib.suppress(Exception):
            bind = _asked(factory, bind_arguments)
    if isinstance(bind, sa.Connection):
        bind = bind.engine
    if isinstance(bind, sa.Engine):
        # SQLAlchemy 2.1: of what each session of the factory has only this is
        # meant for all statements.
        common = options.get('execution_options') or {}
        if (schemas := common.get('schema_translate_map')) is not None:
            bind = bind.execution_options(schema_translate_map=schemas)
        return bind
    given = registry.settings or {}
    if not given.get('sqlalchemy.url'):
        raise ConfigurationError(_NO_ENGINE)
    return _made(given['sqlalchemy.url'], 'sqlalchemy.url', {
        key: value for key, value in given.items()
        if isinstance(key, str) and key.startswith('sqlalchemy.')
        and key != 'sqlalchemy.url'
    }, 'sqlalchemy.')


def check_binds(registry: Any, bind_arguments: dict[str, Any]) -> None:
    """Check that ``request.dbsession`` finds the engine of the sessions.

    Outside of it the sessions may have another engine, so that nothing would
    fail before a request that uses its dbsession.

    :raises ConfigurationError: if the factory has engines of other models
        alone.
    """
    factory, options = _factory_in(registry)
    # Without any, each request may give its own.
    if not options.get('binds') or _chooses_bind(factory):
        return
    try:
        _asked(factory, bind_arguments)
    except Exception as error:
        # Others may come of what only a request has.
        if isinstance(error, sa.exc.UnboundExecutionError):
            table = bind_arguments['mapper'].local_table.fullname
            raise ConfigurationError(
                f"registry['dbsession_factory'] has binds, but none for the "
                f'table {table!r}, so that request.dbsession finds no engine '
                f'for the sessions: add one, give it a bind= (the engine of '
                f'all that has none of its own), or set sqlasession.model to '
                f"a class on the application's Base"
            ) from error


def _factory_in(registry: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return what makes ``request.dbsession``, and what it is made with."""
    factory = registry.get('dbsession_factory')
    # scoped_session keeps its sessionmaker one step further.
    factory = getattr(factory, 'session_factory', factory)
    return factory, getattr(factory, 'kw', {})


def _asked(factory: Any, bind_arguments: dict[str, Any]) -> Any:
    """Return what the sessions of *factory* have as the model's bind."""
    with contextlib.closing(factory()) as dbsession:
        return dbsession.get_bind(**bind_arguments)


def _check_url(key: str, url: Any) -> None:
    try:
        sa.make_url(url)
    except Exception as error:
        # Without its text, here and in the traceback: what is taken for a
        # port may be the end of a password.
        raise ConfigurationError(
            f'{key} = (not shown): cannot be parsed ({type(error).__name__}). '
            f'A URL is written dialect://user:password@host:port/name, and @ '
            f'in a password is %40 (%%40 in an ini file)'
        ) from None


def _check_driver(engine: sa.Engine, settings: Settings) -> None:
    if not engine.dialect.is_async:
        return
    key = 'sqlalchemy.url'
    if settings.url is not None:
        key = 'sqlasession.url'
    elif settings.engine is not None:
        key = 'sqlasession.engine'
    raise ConfigurationError(
        f'{key} = {engine.url.drivername}://(not shown): the driver is '
        f'asynchronous, and Pyramid is not; take another one, such as '
        f'postgresql+psycopg, mysql+pymysql or sqlite'
    )


def _chooses_bind(factory: Any) -> bool:
    """Return whether the sessions of *factory* have their own get_bind()."""
    kind = getattr(factory, 'class_', orm.Session)
    return bool(kind.get_bind is not orm.Session.get_bind)


def _own_engine(settings: Settings) -> sa.Engine:
    return _made(settings.url, f'{PREFIX}url', {
        PREFIX + name: value for name, value in settings.engine_options
    }, f'{PREFIX}engine.')


def _made(
    url: Any, url_key: str, options: Mapping[str, Any], prefix: str
) -> sa.Engine:
    """Return the engine of these settings.

    :param options: the others by their keys, which begin with *prefix*.
    :raises ConfigurationError: naming those that make none.
    """
    _check_url(url_key, url)
    named = {
        key.removeprefix(prefix): _read(key, key.removeprefix(prefix), value)
        for key, value in options.items()
    }
    try:
        engine = sa.engine_from_config({'url': url, **named}, prefix='')
    except Exception as error:
        text = without_passwords(str(error))
        blamed = _blamed(options, prefix, text) or f'{url_key} or {prefix}*'
        raise ConfigurationError(
            f'{blamed} cannot make an engine: '
            f'{type(error).__name__}: {text}. A URL is written '
            f'dialect://user:password@host/name, the options are '
            f'those of sqlalchemy.create_engine{_meant(named, prefix, text)}'
            f'{"" if prefix.startswith(PREFIX) else _OR_GIVEN}'
        ) from error
    level = named.get('isolation_level')
    if level is not None:
        _check_isolation(engine.dialect, f'{prefix}isolation_level', level)
    dialects.prepare_engine(engine)
    pooling.add_own(engine)
    return engine


#: What else can be done about settings that are the application's.
_OR_GIVEN = (
    ". If the application makes its engine in another way, set "
    "sqlasession.engine to it, or to a function of the registry that returns "
    "it, or put its sessionmaker at registry['dbsession_factory']"
)

#: How to read options that SQLAlchemy takes as they are, and an ini file can
#: only have as text.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ('enable_from_linting', 'hide_parameters', 'pool_use_lifo',
         'skip_autocommit_rollback', 'use_insertmanyvalues'),
        values.flag,
    ),
    **dict.fromkeys(
        ('insertmanyvalues_page_size', 'label_length',
         'max_identifier_length'),
        values.count,
    ),
    'query_cache_size': values.count_from_zero,
    'poolclass': values.dotted_name_of(
        'a class of pools, such as sqlalchemy.pool.NullPool',
        lambda found: isinstance(found, type) and issubclass(found, sa.Pool),
    ),
    **dict.fromkeys(('connect_args', 'execution_options'), values.mapping),
}


def _read(key: str, name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in _READERS:
        return value
    try:
        return _READERS[name](value.strip())
    except values.Refused as error:
        shown = '(not shown)' if is_hidden(name) else repr(value)
        raise values.bad_option(key, shown, str(error)) from error.__cause__


def _check_isolation(dialect: sa.Dialect, key: str, level: Any) -> None:
    """Refuse now what SQLAlchemy refuses when it first connects."""
    try:
        allowed = dialect.get_isolation_level_values(None)  # type: ignore[arg-type]
    # What a driver knows of its server it may know only by asking.
    except Exception:
        return
    if str(level).upper().replace('_', ' ') not in allowed:
        raise ConfigurationError(
            f'{key} = {level!r}: must be one of {", ".join(sorted(allowed))}'
        )


#: Options of an engine that are often set.
_ENGINE_OPTIONS = (
    'connect_args', 'echo', 'hide_parameters', 'isolation_level',
    'max_overflow', 'pool_pre_ping', 'pool_recycle', 'pool_size',
    'pool_timeout', 'pool_use_lifo', 'poolclass',
)


def _blamed(options: Mapping[str, Any], prefix: str, text: str) -> str:
    """Return the settings that an error of SQLAlchemy is about."""
    return ', '.join(
        f'{key} = {"(not shown)" if is_hidden(key) else repr(value)}'
        for key, value in options.items()
        if repr(key.removeprefix(prefix)) in text or repr(value) in text
    )


def _meant(options: Iterable[str], prefix: str, text: str) -> str:
    """Return the options that the unknown ones are near to, as a hint."""
    near = [
        f'{prefix}{match[0]}' for name in options
        if repr(name) in text and name not in _ENGINE_OPTIONS
        and (match := difflib.get_close_matches(name, _ENGINE_OPTIONS, n=1))
    ]
    return f'; did you mean {", ".join(near)}?' if near else ''


def _given_engine(registry: Any, given: Any) -> sa.Engine:
    engine = given
    name = getattr(given, '__qualname__', None)
    shown = f'{given.__module__}.{name}' if name else repr(given)
    if callable(given):
        try:
            engine = given(registry)
        except Exception as error:
            raise ConfigurationError(
                f'sqlasession.engine = {shown!r}: the function failed with '
                f'{type(error).__name__}: {without_passwords(str(error))}. It '
                f'is called with the registry when the application is created'
            ) from error
    if not isinstance(engine, sa.Engine):
        raise ConfigurationError(
            f'sqlasession.engine = {shown!r}: must be an Engine or a function '
            f'f(registry) -> Engine, and gave '
            f'{without_passwords(repr(engine))}'
        )
    return engine
