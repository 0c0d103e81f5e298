"""Pyramid's SignedCookieSessionFactory: the session is the cookie."""

from pyramid.session import SignedCookieSessionFactory

from benchmarks.systems.pyramid_app import configurator
from benchmarks.wsgi import scenarios


def make(url):
    config = configurator()
    config.set_session_factory(
        # A read sends no cookie, as none writes here either.
        SignedCookieSessionFactory('benchmark', reissue_time=None)
    )
    return scenarios(config.make_wsgi_app(), keeps_cookie=True)
