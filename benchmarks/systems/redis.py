"""pyramid_session_redis; *url* is that of the redis server."""

from pyramid_session_redis import RedisSessionFactory

from benchmarks.systems.pyramid_app import configurator
from benchmarks.wsgi import scenarios


def make(url):
    config = configurator()
    config.set_session_factory(
        # timeout_trigger: a read writes only after a while.
        RedisSessionFactory(
            'benchmark', redis_url=url, timeout=86400, timeout_trigger=3600
        )
    )
    return scenarios(config.make_wsgi_app())
