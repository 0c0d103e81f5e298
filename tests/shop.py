"""A shop for the tests of transactions: what its views do, and what fails.

Its fixtures, ``make_shop`` and ``shop``, are in conftest.py.
"""

import pytest
import sqlalchemy as sa
from zope.sqlalchemy import mark_changed

from .failing import raiser
from .failing import Voter
from .site import Note

#: What the application's sites in this file are made with.
MANAGERS = {'explicit': 'pyramid_tm.explicit_manager', 'implicit': None}


#: What a view can do to its session.
CHANGES = {
    'put': lambda session: session.update(n=2),
    'nested': lambda session: session.setdefault('list', []).append(2),
    'flash': lambda session: session.flash('Saved!'),
    'csrf': lambda session: session.new_csrf_token(),
    'clear': lambda session: session.clear(),
    'rotate': lambda session: session.rotate(),
    'expiry': lambda session: session.set_expiry(7200),
    'touch': lambda session: session.touch(),
    'invalidate': lambda session: session.invalidate(),
    'replace': lambda session: (session.invalidate(), session.update(n=3)),
}


#: The second kind of manager is not another one on a server.
both_managers = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [
        ('sqlite', 'explicit'), ('sqlite', 'implicit'),
        ('postgresql', 'explicit'), ('mariadb', 'explicit'),
    ],
    indirect=True,
)


#: What ``fill`` stores.
STORED = {'n': 1, 'list': [1]}


def with_views(site):
    """Add the views ``fill`` and ``show``; return *site*."""

    @site.view
    def fill(request):
        request.session.update(n=1, list=[1])

    @site.view
    def show(request):
        return dict(request.session)

    return site


def returning(site):
    """Return a browser that has a stored session: ``{n: 1, list: [1]}``."""
    browser = site.browser()
    browser.get('/fill')
    return browser


def start_over(site):
    """Remove everything; return a browser that has a stored session."""
    site.execute('DELETE FROM sessions')
    site.execute('DELETE FROM notes')
    return returning(site)


def add_note(request, text='a note'):
    """Store a row of the application's own."""
    request.dbsession.add(Note(text=text))


def flush_fails(request, site):
    """The application violates a unique constraint."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])
    request.dbsession.flush()


def flush_fails_at_commit(request, site):
    """The same, but the COMMIT flushes it."""
    request.dbsession.add_all([Note(text='same'), Note(text='same')])


def first_vote_fails(request, site):
    """Another data manager refuses before the database has its turn."""
    Voter(request, raiser())


def prepare_deferred(site):
    """Make a table whose constraint is checked by the COMMIT."""
    if site.database.name == 'mariadb':
        return
    site.execute(
        'CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER '
        'REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)'
    )
    if site.database.name == 'sqlite':
        sa.event.listen(
            site.engine, 'connect',
            lambda connection, record: connection.execute(
                'PRAGMA foreign_keys = ON'
            ),
        )
        # SQLAlchemy 2.1 does not roll back after a COMMIT that failed, and
        # there SQLite's transaction is still open.
        sa.event.listen(
            site.engine, 'checkin',
            lambda connection, record: connection.rollback(),
        )
        site.engine.dispose()


def commit_fails(request, site):
    """The database refuses the COMMIT, after all statements went well."""
    dbsession = request.dbsession
    if site.database.name == 'mariadb':
        # It knows no deferred constraints: the connection breaks.
        number = dbsession.scalar(sa.text('SELECT CONNECTION_ID()'))
        add_note(request)
        Voter(
            request, lambda: site.execute(f'KILL {number}'), '~sqlalchemy!!'
        )
        return
    dbsession.execute(sa.text('INSERT INTO children VALUES (1, 12345)'))
    mark_changed(dbsession, request.tm)


def flash_error(request):
    """The exception view of most tests here."""
    request.session.flash('Please log in')


def change_as_asked(request):
    """Do what the request says."""
    CHANGES[request.params['change']](request.session)
