"""pyramid_session_redis, beside data in an SQL database."""

import pickle

from pyramid_session_redis import RedisSessionFactory
import redis

from benchmarks.peers import systems
from benchmarks.peers.systems import pyramid_app


class System(systems.System):
    # It has no call that changes the id and keeps the data.
    rotates = False

    def __init__(self, url, redis_url, settings):
        config, self._engine = pyramid_app.configurator(
            url, pyramid_app.Handle
        )
        config.set_session_factory(
            RedisSessionFactory('peers', redis_url=redis_url, **settings)
        )
        self.app = config.make_wsgi_app()
        # This server is there for nothing else.
        self._redis = redis.Redis.from_url(redis_url)

    def clear(self):
        self._redis.flushdb()

    def age(self):
        seconds = int(systems.AGE.total_seconds())
        for key in self._redis.scan_iter():
            # Nobody else writes into this server.
            payload = pickle.loads(self._redis.get(key))  # noqa: S301
            # Its expiry, in seconds since the epoch.
            payload['x'] -= seconds
            self._redis.setex(
                key, self._redis.ttl(key) - seconds, pickle.dumps(payload)
            )

    def expire(self):
        for key in self._redis.scan_iter():
            self._redis.expireat(key, 1)

    def clean(self):
        """Redis has done that."""

    def count(self):
        return self._redis.dbsize()

    def close(self):
        self._redis.close()
        self._engine.dispose()


def make(url, redis_url, **settings):
    return System(url, redis_url, settings)
