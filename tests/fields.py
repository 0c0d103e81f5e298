"""Views of the tests of additional fields."""

import pytest

from pyramid_sqlasession import SessionFieldError


def run(site, function, browser=None, **kwargs):
    """Run *function* as a view; return the browser."""
    site.views['run'] = function
    browser = browser or site.browser()
    browser.get('/run', **kwargs)
    return browser


def field(site, name):
    """Return the value of a field of the only record."""
    (row,) = site.rows()
    return row[name]


def refused(site, function, match, browser=None):
    """Assert that *function*, a view, fails with a ``SessionFieldError``."""
    site.views['run'] = function
    with pytest.raises(SessionFieldError, match=match) as caught:
        (browser or site.browser()).get('/run')
    return caught.value
