"""The ways in which a login ends: after each of them its token is dead."""

from .target import ask
from .target import SECRET

#: What they count on.
SETTINGS = {
    'expiration': '1h', 'absolute_timeout': '8h', 'renewal_interval': '10m',
    'renewal_grace': '60s', 'secret': SECRET,
}


def rotated(site, browser):
    browser.get('/rotate')


def renewed(site, browser):
    site.clock.advance(minutes=11)
    browser.get('/read')
    # Beyond the grace.
    site.clock.advance(minutes=2)


def logged_in_again(site, browser):
    browser.get('/login?user=7')


def logged_in_as_another(site, browser):
    browser.get('/login?user=8')


def logged_out(site, browser):
    browser.get('/logout')


def idle(site, browser):
    site.clock.advance(hours=2)


def too_old(site, browser):
    for _ in range(20):
        site.clock.advance(minutes=25)
        browser.get('/ignore')
        ask(site, '/write', f'session={site.token(browser)}')


def by_store(act):
    def revoke(site, browser):
        site.views['admin'] = lambda request: act(
            request.session_store, site.rows()[0]['id']
        )
        site.browser().get('/admin')

    return revoke


def cleaned(site, browser):
    site.clock.advance(days=2)
    site.views['clean'] = lambda request: (
        request.session_store.delete_expired()
    )
    site.browser().get('/clean')
    assert site.rows() == []


#: What happens to a login -> what makes it happen.
ENDINGS = {
    'rotated': rotated,
    'renewed': renewed,
    'logged in again': logged_in_again,
    'logged in as another': logged_in_as_another,
    'logged out': logged_out,
    'idle': idle,
    'too old': too_old,
    'revoked': by_store(lambda store, id: store.revoke(str(id))),
    'revoked by user': by_store(
        lambda store, id: store.revoke_where(user_id=7)
    ),
    'all revoked': by_store(lambda store, id: store.revoke_all()),
    'cleaned': cleaned,
}
