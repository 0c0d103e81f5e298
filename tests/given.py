"""A transaction that a test gives to its requests, and ends itself (T7)."""

import contextlib

import transaction
from transaction.interfaces import NoTransaction
import zope.sqlalchemy


class Given:
    """What the cookiecutter's fixtures make: a manager and a dbsession."""

    def __init__(self, site):
        self._site = site
        self.manager = transaction.TransactionManager(explicit=True)
        self.dbsession = site.registry['dbsession_factory']()
        zope.sqlalchemy.register(
            self.dbsession, transaction_manager=self.manager
        )
        self.manager.begin()

    def browser(self):
        """Return a browser whose requests work in the transaction."""
        return self._site.browser(**{
            'tm.active': True, 'tm.manager': self.manager,
            'app.dbsession': self.dbsession,
        })

    def commit(self):
        """Commit it, and begin the next one."""
        self.manager.commit()
        self.manager.begin()

    def abort(self):
        """End it, for good, unless that was done."""
        with contextlib.suppress(NoTransaction):
            self.manager.abort()
        self.dbsession.close()
