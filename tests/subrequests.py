"""Ways in which the views of tests run a subrequest, and what they check."""

import ast

from pyramid.request import Request
import pytest

from .shop import start_over
from .shop import STORED


def with_cookie(request, path):
    """Return a request as of the same browser, with all else of its own."""
    return Request.blank(path, headers={'Cookie': request.headers['Cookie']})


def with_environ(request, path):
    """Return a copy of *request*, with the keys of pyramid_tm."""
    environ = dict(request.environ, PATH_INFO=path)
    return Request(environ)


def with_transaction(request, path):
    """Return a request that shares the transaction and the ``dbsession``."""
    subrequest = with_cookie(request, path)
    subrequest.environ['tm.active'] = True
    subrequest.environ['tm.manager'] = request.tm
    subrequest.environ['app.dbsession'] = request.dbsession
    return subrequest


def run(request, path):
    """Run a subrequest in the way that the test is about."""
    kind, tweens = request.registry.way
    return request.invoke_subrequest(kind(request, path), use_tweens=tweens)


def with_session(request, path):
    """Return one that shares all that has to do with the database."""
    subrequest = with_transaction(request, path)
    subrequest.session = request.session
    return subrequest


KINDS = [with_cookie, with_environ, with_transaction, with_session]

#: How a view runs a subrequest: what it shares, and through tweens or not.
WAYS = [(kind, tweens) for kind in KINDS for tweens in (True, False)]

#: Those that are saved with the outer request, each with its own session.
IN_TRANSACTION = [(with_transaction, True), (with_transaction, False)]

#: Those that share the transaction of the outer request.
SHARED = [(kind, True) for kind in (
    with_environ, with_transaction, with_session
)]

#: A request in the same thread, beside the one that is running.
beside = pytest.mark.parametrize(
    ('database', 'make_shop'),
    [(name, 'explicit') for name in ('sqlite', 'postgresql', 'mariadb')],
    indirect=True,
)


def inner(request):
    """The view of most subrequests here."""
    request.session['inner'] = True


def errors(caplog):
    """Return the errors in the log: a false alarm is one too."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelname == 'ERROR'
    ]


def assert_logged_in(site, browser, **more):
    """Assert that *browser* has the newest token: the grace of an older one
    is over.  The session has *more* than at the start.
    """
    site.clock.advance(minutes=2)
    seen = ast.literal_eval(browser.get('/show').text)
    assert (site.registry.way, seen) == (
        site.registry.way, {**STORED, **more}
    )


def each_way(site, ways=WAYS):
    """Yield a browser with a stored session, once for each way."""
    for way in ways:
        site.registry.way = way
        yield start_over(site)


def of_a_stranger(request, path):
    """Return a request without the cookie."""
    return Request.blank(path)


def newcomers(shop, ways=WAYS):
    """Yield a browser without a session, once for each way."""
    for _ in each_way(shop, ways):
        shop.execute('DELETE FROM sessions')
        yield shop.browser()


def anyway(request, path):
    """Run a subrequest of a browser that may have no cookie at all."""
    request.headers.setdefault('Cookie', 'other=1')
    return run(request, path)


def commit_by_hand(request, change):
    """Commit what was done; do *change* in the next transaction."""
    request.tm.commit()
    request.tm.begin()
    change(request)


def call_back(request, change):
    """Do *change* when the response is there."""
    request.add_response_callback(lambda request, response: change(request))


def log_in(request):
    """The view of a subrequest that rotates."""
    request.session['inner'] = True
    request.session.rotate()
