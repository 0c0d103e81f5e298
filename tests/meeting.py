"""Two requests of one session that meet, in an order that the test sets.

    def test_both_kept(meeting):
        one = meeting.visitor(n=0)
        slow = meeting.start(one, put(a=1))      # has loaded, and stops
        meeting.do(one, put(b=2))                # comes and goes meanwhile
        slow.finish()                            # goes on, writes, answers
        assert data_of(meeting) == {'n': 0, 'a': 1, 'b': 2}

The fixtures ``make_meeting``, ``meeting`` and ``apart`` are in conftest.py.
An *act* is a function of the request, the rest of the view.  All requests go
through the application of ``meeting.site``, each in a browser of its own
with the cookies that the visitor's browser has at that moment.
"""

import itertools

import pytest
import sqlalchemy as sa

from pyramid_sqlasession import SessionCreated
from pyramid_sqlasession import SessionInvalidated
from pyramid_sqlasession import SessionRotated
from pyramid_sqlasession import SessionWriteDropped

from .services import databases
from .site import Note

USER = 7

#: What the sites of most meetings are made with.
FIELDS = {'additional_fields': 'user_id: Integer index'}

#: The nodes of a cluster share no locks; they refuse (test_galera.py), also
#: an INSERT into a gap that another one has locked.
ON_ONE_SERVER = pytest.mark.parametrize(
    'database', databases.NAMES, indirect=True
)

#: What tells of the life of a session.
EVENTS = (
    SessionCreated, SessionInvalidated, SessionRotated, SessionWriteDropped,
)


def put(**values):
    """Return an act that sets these keys."""

    def act(request):
        request.session.update(values)

    return act


def drop(*keys):
    """Return an act that deletes these keys."""

    def act(request):
        for key in keys:
            del request.session[key]

    return act


def flash(*messages, **kw):
    """Return an act that flashes these messages."""

    def act(request):
        for message in messages:
            request.session.flash(message, **kw)

    return act


def pop(request):
    """Take all flash messages; the response shows them."""
    return ' '.join(request.session.pop_flash())


def csrf(request):
    """Show the CSRF token."""
    return request.session.get_csrf_token()


def look(request):
    """Show what is in the session."""
    return dict(sorted(request.session.items()))


def add_one(request):
    """Count up."""
    request.session['n'] += 1
    return request.session['n']


def rotate(request):
    """Log in."""
    request.session['login'] = True
    request.session.rotate()


def logout(request):
    """Log out."""
    request.session.invalidate()


def logout_and_say_so(request):
    """Log out; the next page says so."""
    request.session.invalidate()
    request.session.flash('bye')


def revoke(request):
    """An administrator ends all sessions of the user."""
    return request.session_store.revoke_where(user_id=USER)


def look_only(request):
    """Load the session and leave it."""


def touched(request):
    """Ask for the touch outright."""
    request.session.touch()


def brief(request):
    """Change how long it lives."""
    request.session.set_expiry(600)


def write_late(request):
    """Write in the view and again after the commit."""
    request.session['a'] = 1
    request.add_response_callback(
        lambda request, response: request.session.update(late=1)
    )


def commit_and_go_on(request):
    """Commit by hand, and write in the next transaction too."""
    request.session['a'] = 1
    request.tm.commit()
    request.tm.begin()
    request.session['b'] = 1


#: The ways to write, but for those that end a session.
WRITING = {
    'set': put(a=1), 'delete': drop('n'), 'flash': flash('x'), 'csrf': csrf,
    'touch': touched, 'set_expiry': brief, 'late': write_late,
    'tm.commit': commit_and_go_on,
}


class Started:
    """A request that waits in its view."""

    def __init__(self, meeting, place, browser, performance):
        self.browser = browser
        self._meeting = meeting
        self._place = place
        self._performance = performance

    def let(self):
        """Let it go on, without waiting for its end."""
        self._meeting.stage.let(self._place)

    def result(self):
        """Return the response."""
        return self._performance.result()

    def finish(self):
        """Let it go on to its end; return the response."""
        self.let()
        return self.result()


class Meeting:
    """Makes the requests of one ``Site`` meet."""

    def __init__(self, site, stage):
        self.site = site
        self.stage = stage
        self._numbers = itertools.count(1)

    def visitor(self, **data):
        """Return a browser with a stored session that holds *data*."""
        browser = self.site.browser()
        self.site.views['arrive'] = put(user_id=USER, **data)
        browser.get('/arrive')
        return browser

    def do(self, browser, act, site=None):
        """Make a request with *browser*, which takes the cookie."""
        site = site or self.site
        name = f'do{next(self._numbers)}'
        site.views[name] = act
        response = browser.get(f'/{name}')
        site.database.settle()
        return response

    def start(self, browser, act, *, before=look_only, site=None):
        """Start a request that has loaded the session and stops.

        :param before: what its view does first.  Repeated by pyramid_retry,
            the view does not stop again.
        """
        site = site or self.site
        name = f'start{next(self._numbers)}'

        def view(request):
            before(request)
            request.session.get('n')
            self.stage.reach(name)
            return act(request)

        site.views[name] = view
        copy = site.browser(like=browser)
        performance = self.stage.run(copy.get, f'/{name}')
        self.stage.wait(name)
        return Started(self, name, copy, performance)

    def seen(self, token):
        """Return what a request with this cookie sees: a session's data."""
        browser = self.site.browser()
        name = self.site.application.settings.cookie_name
        if token is not None:
            browser.set_cookie(name, token)
        self.site.views['see'] = see = Seen()
        browser.get('/see')
        return see.data


class Seen:
    """A view that keeps what it sees."""

    def __call__(self, request):
        self.data = dict(request.session)


def open_snapshot(request):
    """Begin the application's part of the transaction with a read."""
    request.dbsession.scalars(sa.select(Note)).all()


def isolate_snapshots(site):
    """Have a MariaDB refuse (1020) to write to what a transaction's snapshot
    has not, as it does by default from 11.6.2 on.
    """
    site.engine.dispose()

    @sa.event.listens_for(site.engine, 'connect')
    def isolate(raw, record):
        raw.cursor().execute('SET SESSION innodb_snapshot_isolation = ON')


def add_note(text):
    """Return an act that writes a row of the application."""

    def act(request):
        request.dbsession.add(Note(text=text))

    return act


def reasons(seen):
    """Return the reasons of the ``SessionWriteDropped`` among *seen*."""
    return [e.reason for e in seen if isinstance(e, SessionWriteDropped)]


def set_cookies(response):
    """Return the values that *response* sets: [] is none, [''] removes."""
    return [
        header.partition(';')[0].partition('=')[2]
        for header in response.headers.getall('Set-Cookie')
    ]


def data_of(meeting):
    """Return the data of the only record, without what each visitor has."""
    data = meeting.site.data()
    data.pop('user_id', None)
    return data
