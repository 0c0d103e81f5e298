"""pyramid_debugtoolbar as tests include and read it."""

from webtest import TestApp

INCLUDES = {
    'debugtoolbar.includes': 'pyramid_sqlasession.debugtoolbar',
    # Errors go to the tests, not to a page.
    'debugtoolbar.intercept_exc': 'false',
}


def toolbar_page(app, number=1):
    """Return the toolbar's page about the last request but *number* - 1."""
    history = app.registry.pdtb_history.last(number)
    browser = TestApp(app, extra_environ={'REMOTE_ADDR': '127.0.0.1'})
    return browser.get(f'/_debug_toolbar/{history[-1][0]}').text
