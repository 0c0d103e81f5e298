"""Beaker in a database (``ext:database``), by pyramid_beaker."""

from pyramid_beaker import session_factory_from_settings

from benchmarks.systems.pyramid_app import configurator
from benchmarks.systems.sqlite import prepare_all_engines
from benchmarks.wsgi import scenarios


def make(url):
    prepare_all_engines()
    config = configurator()
    config.set_session_factory(
        session_factory_from_settings({
            'session.type': 'ext:database',
            'session.url': url,
            'session.key': 'beaker',
            # Without it every read writes.
            'session.save_accessed_time': 'false',
        })
    )
    return scenarios(config.make_wsgi_app())
