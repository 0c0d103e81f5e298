"""Ways in which the views of tests run a subrequest."""

from pyramid.request import Request


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
