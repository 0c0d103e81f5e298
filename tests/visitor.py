"""One browser, and what its requests do to its session.

Its fixtures, ``visitor`` and ``quick``, are in conftest.py.
"""


class Visitor:
    """One browser and its session."""

    def __init__(self, site):
        self.site = site
        self.browser = site.browser()

    def visit(self, work):
        """Run ``work(request.session)`` in a request; return its result."""
        return self.request(lambda request: work(request.session))

    def request(self, work):
        """Run ``work(request)`` in a request; return its result."""
        results = []

        @self.site.view
        def page(request):
            results.append(work(request))

        self.response = self.browser.get('/page')
        return results[-1]

    def store(self, **data):
        """Store a session with *data*."""
        self.visit(lambda session: session.update(data))

    @property
    def content(self):
        """What another request finds."""
        return self.visit(dict)


def state(session):
    """Return what the session says of itself."""
    return (
        session.id, session.new, session.created, session.accessed,
        session.expires,
    )
