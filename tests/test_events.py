"""Events, as subscribers of an application hear of them (R1)."""

from zope.interface import Interface

from pyramid_sqlasession import events
from pyramid_sqlasession import ISessionCreated
from pyramid_sqlasession import SessionCreated

from .failing import on_sqlite
from .shop import returning
from .shop import with_views


@on_sqlite
def test_each_way_to_subscribe(make_site):
    """R1: by the interface, by the class, by a class above, to everything."""
    heard = []

    def hears(of):
        return lambda event: heard.append((of, event))

    def configure(config):
        for of in (ISessionCreated, SessionCreated, Interface, object):
            config.add_subscriber(hears(of), of)
        config.add_subscriber(hears(None))

    site = with_views(make_site(configure=configure))
    returning(site)
    (record,) = site.rows()
    created = [
        (of, event) for of, event in heard if isinstance(event, SessionCreated)
    ]
    assert {of for of, _ in created} == {
        ISessionCreated, SessionCreated, Interface, object, None
    }
    for _, event in created:
        assert event.session_id == str(record['id'])
        assert event.request.path == '/fill'


@on_sqlite
def test_one_who_subscribes_later_hears(make_site):
    """R1: as test suites do, when the application runs already."""
    site = make_site()

    @site.view
    def work(request):
        request.session.invalidate()
        request.session['n'] = 1

    browser = site.browser()
    browser.get('/work')
    with site.events() as seen:
        browser.get('/work')
    kinds = [type(event) for event in seen]
    assert events.SessionInvalidated in kinds
    assert events.SessionCreated in kinds
    browser.get('/work')
    assert len(seen) == len(kinds)


@on_sqlite
def test_what_an_event_shows(make_site):
    """Section 1: what it is about, and nothing that works as a cookie."""
    site = with_views(make_site(
        secret='sesame', expiration='1h', check_expiration_interval='1h'
    ))
    forger = site.browser()
    forger.set_cookie('session', 'A' * 64 + '.' + 'B' * 43)
    with site.events() as seen:
        forger.get('/show')
        returning(site)
        (record,) = site.rows()
        site.clock.advance(hours=2)
        site.application.cleaner.clean()
    ours = [one for one in seen if type(one).__module__ == events.__name__]
    assert repr(ours) == (
        f'[<SuspiciousCookie signature>, <SessionCreated {record["id"]}>, '
        f'<SessionsExpired 1>]'
    )
