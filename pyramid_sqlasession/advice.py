"""What the log says at start-up about settings that weaken an application.

Each is one line that names the key and says what to do.  Nothing here stops
an application: what cannot work at all is refused by ``settings``.
"""

from __future__ import annotations

from collections.abc import Container
from collections.abc import Iterator
from collections.abc import Mapping
from itertools import chain
import logging
from typing import Any

import sqlalchemy as sa

from pyramid_sqlasession.dialects import DIALECTS
from pyramid_sqlasession.dialects import MYSQL
from pyramid_sqlasession.settings import PLAIN
from pyramid_sqlasession.settings import Settings

log = logging.getLogger(__name__)

# 128 bits, if they are random.
_SECRET_BYTES = 16

# NIST SP 800-63B-4, section 2.1.3: the most for the weakest kind of login.
_MONTH = 30 * 86400.0

# A browser's parallel requests are over long before.
_GRACE = 600.0

_ON_RETRY = (
    'sqlasession.conflict = retry: nothing here runs a request again, so the '
    'second of two that change one key is answered with an error; add '
    "config.include('pyramid_retry') with retry.attempts above 1, or remove "
    'the setting (merge)'
)

_ON_FACTORY = (
    'request.session is made by a session factory that the application has '
    'set (%s), and not by pyramid_sqlasession: remove that '
    'set_session_factory() or session_factory='
)


def give(
    settings: Settings, given: Mapping[str, Any],
    columns: Mapping[str, sa.Column[Any]], table: sa.Table, engine: sa.Engine,
    *, lacks_dbsession: bool, lacks_retry: bool, other_factory: object | None,
) -> None:
    """Log the advice on *settings*.

    :param given: the same as they are written.
    :param columns: those of the additional fields, by their names.
    :param table: that of the sessions.
    :param engine: that of their database.
    :param lacks_dbsession: the settings name a SQLAlchemy session that the
        application does not have, as it seems.
    :param lacks_retry: nothing runs a request again.
    :param other_factory: of ``request.session``, if it is not this package's.
    """
    if other_factory is not None:
        log.warning(_ON_FACTORY, _name_of(other_factory))
    if lacks_dbsession:
        log.warning('%s', _on_dbsession(settings))
    if lacks_retry and settings.conflict == 'retry':
        log.warning('%s', _ON_RETRY)
    for text in chain(
        _on_cookie(settings), _on_user_field(settings, columns),
        _on_timeouts(settings, columns), _on_secret(settings),
        _on_keys(settings, given),
        _on_references(table), _on_zones(columns, engine.dialect),
        _on_charset(engine), _on_database(engine.dialect),
    ):
        log.warning('%s', text)
    for text in _hints(settings):
        log.info('%s', text)


def _name_of(factory: object) -> str:
    name = getattr(factory, '__qualname__', type(factory).__qualname__)
    return f'{factory.__module__}.{name}'


def _on_dbsession(settings: Settings) -> str:
    return (
        f'sqlasession.dbsession = {settings.dbsession}: no request attribute '
        f'of that name is known. Sessions are then written in a transaction '
        f"of their own, beside the application's: correct the name, or make "
        f'the attribute by config.add_request_method(…, '
        f'{settings.dbsession!r}, reify=True)'
    )


def _on_cookie(settings: Settings) -> Iterator[str]:
    if settings.cookie_secure is False:
        yield (
            'sqlasession.cookie_secure = false: browsers send the cookie over '
            'plain http too, where it can be read on the way; remove the '
            'setting (auto), or set it to true where there is only https'
        )
    if not settings.cookie_httponly:
        yield (
            'sqlasession.cookie_httponly = false: a script in a page can read '
            'the cookie and send it elsewhere; remove the setting'
        )
    if settings.cookie_samesite == 'None':
        yield (
            'sqlasession.cookie_samesite = None: browsers send the cookie '
            'with requests that other sites make; remove the setting (Lax) '
            'unless this one is embedded in others, and check CSRF tokens '
            'everywhere'
        )
    if settings.cookie_domain is not None:
        yield (
            f'sqlasession.cookie_domain = {settings.cookie_domain}: every '
            f'subdomain gets the cookie and can replace it; remove the '
            f'setting unless all of them are to share the session'
        )


def _on_user_field(
    settings: Settings, columns: Container[str]
) -> Iterator[str]:
    if settings.user_field not in columns and (
        settings.user_field != Settings.user_field
    ):
        yield (
            f'sqlasession.user_field = {settings.user_field}: is no '
            f'additional field, so that no session is found by its user; '
            f'correct the name, or add the field'
        )


def _on_timeouts(
    settings: Settings, columns: Container[str]
) -> Iterator[str]:
    if settings.absolute_timeout is None and settings.user_field in columns:
        yield (
            f'sqlasession.absolute_timeout is not set, and the field '
            f'{settings.user_field!r} shows that users log in: a login that '
            f'is used never ends; set it, to 30d at most'
        )
    for name in ('expiration', 'absolute_timeout'):
        seconds = getattr(settings, name)
        if seconds is not None and seconds > _MONTH:
            yield (
                f'sqlasession.{name} = {seconds / 86400:.4g} days: a cookie '
                f'that was stolen or forgotten works for that long; set it '
                f'to 30d at most, and lengthen single sessions by set_expiry()'
            )
    if settings.renewal_interval is not None and (
        settings.renewal_grace > _GRACE
    ):
        yield (
            f'sqlasession.renewal_grace = {settings.renewal_grace:g} seconds: '
            f'a token that was renewed works for that long beside the new '
            f'one; set it to a minute or two'
        )


def _on_secret(settings: Settings) -> Iterator[str]:
    for number, secret in enumerate(settings.secret, 1):
        if secret != PLAIN and len(secret.encode()) < _SECRET_BYTES:
            yield (
                f'sqlasession.secret: number {number} is shorter than '
                f'{_SECRET_BYTES} bytes and can be guessed; make one with: '
                f'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )


def _on_keys(
    settings: Settings, given: Mapping[str, Any]
) -> Iterator[str]:
    name = 'sqlasession.encryption_keys'
    if given.get(name) is not None and not settings.encryption_keys:
        yield (
            f'{name} is empty, so that nothing is encrypted: has a variable '
            f'of the environment no value? Give a key, or remove the setting'
        )


def _on_references(table: sa.Table) -> Iterator[str]:
    for other in table.metadata.tables.values():
        for constraint in other.foreign_key_constraints:
            if _refers_to(constraint, table) and (
                constraint.ondelete or 'NO ACTION'
            ).upper() in ('NO ACTION', 'RESTRICT'):
                yield (
                    f'{other.name} refers to {table.name} by a foreign key '
                    f'that lets no session end or be deleted as long as a '
                    f"row refers to it; give it ondelete='CASCADE' or "
                    f"'SET NULL'"
                )


def _refers_to(
    constraint: sa.ForeignKeyConstraint, table: sa.Table
) -> bool:
    try:
        return constraint.referred_table is table
    # One of the application's that is not in the MetaData, or not yet.
    except sa.exc.NoReferenceError:
        return False


# Of MariaDB and MySQL, as the second byte of a character.
_WITH_BACKSLASH = ('big5', 'cp932', 'gb18030', 'gbk', 'sjis')


def _on_charset(engine: sa.Engine) -> Iterator[str]:
    charset = engine.url.query.get('charset')
    if engine.dialect.name not in MYSQL or charset in (None, 'utf8mb4'):
        return
    if charset in _WITH_BACKSLASH:
        yield (
            f'the URL of the database has charset={charset}, in which a '
            f'backslash may be half of a character: with a driver that '
            f'escapes by it, whoever makes up a cookie can send SQL; make it '
            f'charset=utf8mb4, or leave it out'
        )
    else:
        yield (
            f'the URL of the database has charset={charset}, by which MariaDB '
            f'and MySQL refuse a session with an emoji, or store it as ????; '
            f'make it charset=utf8mb4, or leave it out'
        )


def _on_zones(
    columns: Mapping[str, sa.Column[Any]], dialect: sa.Dialect
) -> Iterator[str]:
    if dialect.name not in MYSQL:
        return
    for name, column in columns.items():
        # Not as the dialect has it: that is fixed by the first who asks, and
        # before there is a connection it does not know the server.
        variants = getattr(column.type, '_variant_mapping', {})
        type_: Any = variants.get(dialect.name, column.type)
        while isinstance(type_, sa.TypeDecorator):
            type_ = type_.impl_instance
        if isinstance(type_, sa.TIMESTAMP):
            yield (
                f'the session field {name!r} is a TIMESTAMP, which MariaDB '
                f"and MySQL convert by the connection's time zone, and which "
                f'ends in 2038: make it a DATETIME(6), as UTCDateTime of '
                f'pyramid_sqlasession.model is'
            )


def _on_database(dialect: sa.Dialect) -> Iterator[str]:
    if dialect.name not in DIALECTS:
        yield (
            f'the database is {dialect.name}, with which this package was '
            f'never run: parallel requests may lose changes of a session, or '
            f'bring an ended one back; have sqlasession.url name a '
            f'PostgreSQL, MariaDB, MySQL or SQLite database'
        )


def _hints(settings: Settings) -> Iterator[str]:
    if not settings.secret:
        yield (
            'sqlasession.secret is not set: each cookie that somebody makes '
            'up costs a SELECT; set it to keep them from the database'
        )
    if PLAIN in settings.secret:
        yield (
            f'sqlasession.secret has the word {PLAIN}: cookies without a '
            f'signature are taken, too; remove it once all that are older '
            f'than the secret have run out'
        )
    if settings.cookie_secure is True and not settings.name_demands_secure:
        shared = settings.cookie_domain or settings.cookie_path != '/'
        prefix, who = (
            ('__Secure-', 'no page over plain http') if shared else
            ('__Host-', 'no subdomain and no page over plain http')
        )
        yield (
            f'sqlasession.cookie_name = {settings.cookie_name}: with '
            f'cookie_secure = true it can be {prefix}{settings.cookie_name}, '
            f'a cookie that {who} can replace'
        )
    if settings.check_expiration_interval <= 0:
        yield (
            f'sqlasession.check_expiration_interval = '
            f'{settings.check_expiration_interval:g}: nothing deletes '
            'expired sessions here; have "psessions <your.ini> expire" run '
            'from time to time'
        )
