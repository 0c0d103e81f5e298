"""Requests with and without a transaction, for the tests of T8 and T10.

The fixture ``free`` is in conftest.py.
"""

import logging

import pytest

#: The second kind of manager is not another one on a server.
both_managers = pytest.mark.parametrize(
    ('database', 'manager'),
    [
        ('sqlite', 'pyramid_tm.explicit_manager'),
        ('sqlite', None),
        ('postgresql', 'pyramid_tm.explicit_manager'),
        ('mariadb', 'pyramid_tm.explicit_manager'),
    ],
    indirect=['database'],
)


def is_managed_path(request):
    """Say for which requests pyramid_tm is active."""
    return not request.path.startswith('/free')


def returning(site):
    """Return a browser that has a stored session: ``{n: 1, list: [1]}``."""
    site.execute('DELETE FROM sessions')
    browser = site.browser()
    browser.get('/fill')
    return browser


def errors(caplog):
    """Return the errors in the log."""
    return [
        record.getMessage() for record in caplog.records
        if record.levelno >= logging.ERROR
    ]
