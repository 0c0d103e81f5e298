"""Count what two requests at once do to sessions: ``make stress-peers``.

    python3 -m benchmarks.peers                    about a minute
    python3 -m benchmarks.peers --times 3          orientation
    python3 -m benchmarks.peers --systems redis    only this one; no files

Drives this package, Django's ``db`` sessions, Flask-Session (SQLAlchemy) and
pyramid_session_redis with the same cases (``cases.py``).  The order in which
two requests meet is set by barriers in the view, so a count is nearly always
none or all; each case is repeated to show that it is.

Each case also runs once without any overlap, and has to count nothing then:
what is counted is the meeting and no mistake of an adapter.

Writes ``benchmarks/peers/counted.json`` and ``docs/counted.inc``.
"""

import argparse
from collections import Counter
import contextlib
import importlib
import importlib.util
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from benchmarks import environment
from benchmarks.environment import say

#: name: module, settings that are not the default.
RUNS = {
    'sqlasession': ('sqlasession', {}),
    'django_db': ('django_db', {}),
    'flask_session': ('flask_session', {}),
    'redis': ('redis', {}),
    'sqlasession, retry': ('sqlasession', {
        'sqlasession.conflict': 'retry', 'retry.attempts': 10,
    }),
    'django_db, every request': ('django_db', {
        'SESSION_SAVE_EVERY_REQUEST': True,
    }),
    'flask_session, no refresh': ('flask_session', {
        'SESSION_REFRESH_EACH_REQUEST': False,
    }),
    'redis, trigger': ('redis', {'timeout_trigger': 300}),
}


@contextlib.contextmanager
def databases(folder):
    """Yield a function that makes an empty database and returns its URL."""
    from benchmarks import servers
    from tests.services.pgtemp import find_binaries
    from tests.services.pgtemp import TempPostgres

    if find_binaries() is None:
        say('No PostgreSQL on this machine: counting on SQLite')
        yield lambda name: f'sqlite:///{folder}/{name}.sqlite'
        return
    with TempPostgres() as server:
        yield lambda name: servers.new_database(server, name)


def count(system, times):
    """Return {anomaly: [how often, of how many]} of all cases."""
    from benchmarks.peers import cases

    for case in (*cases.CASES, cases.increments):
        found, _ = run(case, system, apart=True)
        wrong = [
            name for name, k in found.items() if k and name not in cases.ALONE
        ]
        assert not wrong, f'{wrong} without any overlap: the adapter is wrong'
    counted, of = Counter(), Counter()
    for case in cases.CASES:
        for _ in range(times):
            found, trial = run(case, system)
            for name, k in found.items():
                counted[name] += k
                of[name] += 1
            if trial.has_met:
                counted['error_page'] += trial.errors > 0
                of['error_page'] += 1
    found, _ = run(cases.increments, system)
    counted += found
    of['increments'] = of['increment_errors'] = cases.INCREMENTS
    return {
        name: [counted[name], of[name]]
        for name in cases.ANOMALIES if name in of
    }


def run(case, system, *, apart=False):
    """Run a case once; return what it found, and its trial."""
    from benchmarks.peers.trial import Trial

    with contextlib.closing(Trial(system, apart=apart)) as trial:
        return Counter(case(trial)), trial


def make(name, url, redis_url):
    """Return the system of a run."""
    module, settings = RUNS[name]
    if module == 'redis':
        settings = settings | {'redis_url': redis_url}
    found = importlib.import_module(f'benchmarks.peers.systems.{module}')
    return found.make(url, **settings)


def count_all(names, times):
    """Return {run: result of ``count``}."""
    from benchmarks import servers

    results = {}
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        folder = enter(tempfile.TemporaryDirectory(prefix='peers-'))
        new_database = enter(databases(folder))
        redis_url = enter(servers.redis())
        for number, name in enumerate(names):
            module, changed = RUNS[name]
            if module == 'redis' and redis_url is None:
                say(f'{name} is left out: redis-server is not here')
                continue
            start = time.monotonic()
            url = new_database(f'peers{number}')
            with contextlib.closing(make(name, url, redis_url)) as system:
                results[name] = count(
                    system, -(-times // 3) if changed else times
                )
            say(f'{name}: {time.monotonic() - start:.1f} s')
    return results


def arguments():
    parser = argparse.ArgumentParser(
        prog='python3 -m benchmarks.peers',
        description='Count what two requests at once do to sessions.',
    )
    add = parser.add_argument
    add('--times', type=int, default=10,
        help='how often each case runs; with other settings a third')
    add('--systems', nargs='+', choices=RUNS, metavar='NAME',
        help=f'only these, no files written: {"; ".join(RUNS)}')
    return parser.parse_args()


def main():
    options = arguments()
    environment.enter('benchmarks.peers')
    if importlib.util.find_spec('pyramid_retry') is None:
        # For `conflict = retry` only, which `make bench` does not measure.
        subprocess.run(
            [sys.executable, '-m', 'pip', 'install', '--quiet',
             'pyramid_retry'], check=True,
        )
    from benchmarks.peers import report

    say(f'Each case {options.times} times')
    results = count_all(options.systems or RUNS, options.times)
    print(report.text(results))
    if options.systems is None:
        for path in report.write(
            results, options.times, environment.ROOT, Path(__file__).parent
        ):
            say(f'Written: {path}')


if __name__ == '__main__':
    main()
