"""Applications in processes of their own, for the tests of the cleaner.

    python -m tests.cleaning MODE URL

It says on standard output what it does, a word per line, and waits for lines
on standard input where a test decides when it goes on.
"""

import logging
import os
import select
import subprocess
import sys
import threading

from pyramid.config import Configurator
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from pyramid_sqlasession import SessionsExpired
from pyramid_sqlasession import stop_expiring_sessions

#: Seconds; more than any wait of a test takes on a busy machine.
PATIENCE = 20


class Worker:
    """A process that runs ``tests.cleaning``."""

    def __init__(self, mode, url):
        self.process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'tests.cleaning', mode,
             str(url)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0,
        )

    def line(self):
        """Return the next line that it says."""
        ready, _, _ = select.select(
            [self.process.stdout], [], [], PATIENCE
        )
        assert ready, 'the process says nothing'
        return self.process.stdout.readline().decode().split()

    def go(self):
        """Let it go on."""
        self.process.stdin.write(b'\n')

    def end(self):
        """Return its exit code and what it said on standard error."""
        _, error = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, error.decode()


def say(*words):
    """Tell the test; also from a forked process."""
    os.write(1, (' '.join(map(str, words)) + '\n').encode())


def make_app(engine, interval='0.05', **settings):
    """Return the smallest application with sessions and a cleaner."""
    config = Configurator(settings={
        'sqlasession.check_expiration_interval': interval,
        'sqlasession.create_table': 'true',
        **{f'sqlasession.{name}': value for name, value in settings.items()},
    })
    config.registry['dbsession_factory'] = sessionmaker(engine)
    config.include('pyramid_sqlasession')
    return config.make_wsgi_app()


def hold(engine):
    """Clean, and stop before the first DELETE until a line comes."""

    @sa.event.listens_for(engine, 'before_cursor_execute')
    def stop(connection, cursor, statement, *args):
        if 'DELETE FROM' in statement:
            say('deleting')
            sys.stdin.readline()

    done = threading.Event()
    app = make_app(engine)

    def expired(event):
        say('expired', event.count)
        done.set()

    app.registry.registerHandler(expired, [SessionsExpired])
    done.wait(PATIENCE)
    stop_expiring_sessions(app)


def fork(engine):
    """Fork as ``gunicorn --preload`` does; the child has to clean."""
    app = make_app(engine)
    done = threading.Event()

    def expired(event):
        say(os.getpid(), 'expired', event.count)
        done.set()

    app.registry.registerHandler(expired, [SessionsExpired])
    identity = {
        'postgresql': 'SELECT pg_backend_pid()',
        'mysql': 'SELECT CONNECTION_ID()',
    }.get(engine.dialect.name, 'SELECT 1')
    with engine.connect() as connection:
        # Stays in the pool, where the child finds it.
        before = connection.scalar(sa.text(identity))
    child = os.fork()
    if not child:
        sys.stdin.close()
        os._exit(0 if done.wait(PATIENCE) else 1)
    stop_expiring_sessions(app)
    say('child', child)
    _, status = os.waitpid(child, 0)
    with engine.connect() as connection:
        after = connection.scalar(sa.text(identity))
    say('status', status, 'same' if after == before else 'other')


def end(engine):
    """End without stopping anything, while the cleaner runs."""
    make_app(engine, interval='0.001')
    say('ended')


def create(engine):
    """Create the table together with other processes."""
    engine.connect().close()
    say('ready')
    sys.stdin.readline()
    app = make_app(engine, interval='0')
    say(sa.inspect(engine).has_table(
        app.registry['sqlasession'].records.table.name
    ))


if __name__ == '__main__':
    logging.basicConfig(level=logging.WARNING)
    globals()[sys.argv[1]](sa.create_engine(sys.argv[2]))
