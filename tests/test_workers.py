"""Processes that uWSGI forks past Python."""

import subprocess
import sys

import pytest

# As in uWSGI: its module is there before anything is imported, and a fork is
# one of C's, after which it calls what is noted for it.
PROGRAM = """
import ctypes, os, sys, types
uwsgi = sys.modules['uwsgi'] = types.ModuleType('uwsgi')
uwsgi.opt, uwsgi.has_threads = {{}}, {threads}
{decorators}
from pyramid.config import Configurator
from pyramid_sqlasession.cleaner import running_cleaners
config = Configurator(settings={{
    'sqlasession.url': 'sqlite:///{file}',
    'sqlasession.create_table': 'true',
}})
config.include('pyramid_sqlasession')
app = config.make_wsgi_app()
pool = app.registry['sqlasession'].engine.pool
if not ctypes.CDLL(None).fork():
    uwsgi.post_fork_hook()
    is_new = app.registry['sqlasession'].engine.pool is not pool
    print(len(running_cleaners()), is_new, flush=True)
    os._exit(0)
os.wait()
"""

# What its decorators do, of which a web site may use others later.
DECORATORS = """
found = sys.modules['uwsgidecorators'] = types.ModuleType('uwsgidecorators')
chain = []
found.postfork = chain.append
uwsgi.post_fork_hook = lambda: [one() for one in chain]
"""


def run(tmp_path, decorators='', threads=1):
    """Return what the program says, and its errors."""
    program = PROGRAM.format(
        file=tmp_path / 'own.sqlite', decorators=decorators, threads=threads,
    )
    done = subprocess.run(
        [sys.executable, '-c', program], check=True, capture_output=True,
        text=True, timeout=60,
    )
    return done.stdout.split(), done.stderr


# What they do where uWSGI runs without its master.
NO_MASTER = """
class Refusing:
    def find_spec(self, name, *rest):
        if name == 'uwsgidecorators':
            raise Exception('you have to enable the uWSGI master')
sys.meta_path.insert(0, Refusing())
"""


@pytest.mark.parametrize('decorators', ['', DECORATORS, NO_MASTER])
def test_a_worker_that_uwsgi_forks(tmp_path, decorators):
    """T0, E3: it connects anew, and has a cleaner of its own."""
    said, _ = run(tmp_path, decorators)
    assert said == ['1', 'True']


def test_a_hook_that_is_there_already(tmp_path):
    """E3: it is called as well."""
    said, _ = run(
        tmp_path, 'uwsgi.post_fork_hook = lambda: print("before")'
    )
    assert said == ['before', '1', 'True']


def test_a_uwsgi_without_threads(tmp_path):
    """E3: no cleaner starts that would be stopped within a transaction."""
    said, errors = run(tmp_path, threads=0)
    assert said == ['0', 'True']
    assert 'Set enable-threads, or sqlasession.check_expiration' in errors
