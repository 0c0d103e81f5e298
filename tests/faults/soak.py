"""Mixed load for as long as you like, with faults at random moments.

    python -m tests.faults.soak 3600 [--seed 7] [--sabotage NAME]

Two processes with four threads each follow the plan of ``tests.checker``, in
rounds; its model judges each round, and forgives what nobody can know: whether
a request that was refused (503) because its connection broke was committed.
The processes live from the first round to the last; their memory, threads and
connections are looked at after each.
"""

import argparse
from collections import Counter
import contextlib
import ctypes
import gc
import logging
import multiprocessing
from pathlib import Path
import random
import re
import statistics
import sys
import threading
import time

import sqlalchemy as sa

from pyramid_sqlasession.faults import Fault
from pyramid_sqlasession.faults import fault_of

from ..checker import model
from ..checker import sabotage
from ..checker import site as checker_site
from ..checker.run import Config
from ..checker.worker import ErrorLog
from ..checker.worker import Jar
from ..checker.worker import Worker
from . import results
from . import servers
from .processes import add_expired_to
from .processes import count_expired

PROCESSES = 2
THREADS = 4
ROUND = 15.0
#: Expired records that the cleaner finds in each round.
EXPIRED = 2000
#: The cleaner's interval, seconds; it backs off to eight times that.
INTERVAL = '1s'
#: A cleaner rests ten times as long as a batch takes a busy machine.
CLEAN_WITHIN = 120
#: Growth of a process that is noise: allocators keep what they once had.
MEMORY = 8 * 1024 * 1024
#: Seconds of a run whose table goes into the docs.
KEPT = 3600
FAULTS = ('restarted', 'crashed', 'connections killed', 'paused 2 s')

log = logging.getLogger('pyramid_sqlasession')


# -- a process of workers ----------------------------------------------------


class Application(checker_site.Application):
    """The checker's, which answers 503 where its own data are away, or its
    COMMIT fails: a session that is written with them is committed by it.
    """

    def __call__(self, environ, start_response):
        try:
            return super().__call__(environ, start_response)
        except sa.exc.DBAPIError as error:
            if environ['PATH_INFO'] not in ('/buy', '/revoke') or (
                fault_of(error) is not Fault.UNAVAILABLE
            ):
                raise
            start_response('503 Service Unavailable', [])
            return [b'']


def work(number, config, pipe):
    """Run rounds as *pipe* asks for them: (seed, seconds, shared jar)."""
    errors = ErrorLog()
    log.addHandler(errors)
    if config.sabotage:
        sabotage.GUARDS[config.sabotage]()
    app = Application(config, config.urls[0])
    while (asked := pipe.recv()) is not None:
        config.seed, seconds, shared = asked
        workers = [
            Worker(f'p{number}t{thread}', config, [app], Jar(shared),
                   checker_site.GOODS)
            for thread in range(config.threads)
        ]
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=worker.run, args=(end,))
            for worker in workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = [e for worker in workers for e in worker.events]
        lines, errors.lines = errors.lines, []
        pipe.send((events, lines))
        del workers, threads, events, lines, shared, asked
        pipe.send({
            'memory': _held(), 'threads': threading.active_count(),
            'checked out': app.engine.pool.checkedout(),
            'pool': app.engine.pool.checkedin(),
        })
    app.close()


def _held():
    """Return what the process itself holds, in bytes.

    Neither the pages of libraries, of which the kernel maps more or fewer as
    it likes, nor what the largest round so far took for its list of events:
    the C library keeps that unless it is asked to give it back.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    status = Path('/proc/self/status').read_text(encoding='ascii')
    found = re.search(r'^RssAnon:\s+(\d+) kB$', status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


# -- the model's judgement, with what nobody can know ------------------------


class Unsure:
    """What was refused (503), and may have been committed all the same."""

    def __init__(self, events):
        owner = {
            e.received: (e.created or [e.id])[-1] for e in events
            if e.received
        }
        self.refused = [e for e in events if e.status == 503]
        self._by_session = {}
        for event in self.refused:
            session = (
                event.target if event.operation == 'revoke'
                else owner.get(event.sent)
            )
            self._by_session.setdefault(session, []).append(event)
        #: A record whose cookie nobody was given.
        self.orphans = sum(
            e.operation in ('arrive', 'relogin') or e.sent is not None
            for e in self.refused
        )

    def forgives(self, violation):
        """Return whether a refused request explains *violation*."""
        if violation.rule == 'no error':
            return '503' in violation.text.partition(':')[0]
        if violation.rule == 'no orphan' and self.orphans:
            self.orphans -= 1
            return True
        events = self._by_session.get(violation.session, ())
        done = {e.operation for e in events}
        if violation.rule == 'no lost key':
            key = violation.text.partition(' ')[0]
            return any(e.target == key for e in events
                       if e.operation == 'delete')
        return bool(done & _EXPLAINS.get(violation.rule, set()))


_ENDS = {'logout', 'relogin', 'revoke', 'login'}
_EXPLAINS = {
    'no lost session': _ENDS, 'no lost count': {'count'},
    'no lost message': {'pop'}, 'one CSRF token': {'login'},
}


def judge(config, events, lines):
    """Return the violations of a round that no refusal explains."""
    sessions, bought, sold = checker_site.final(config)
    violations = model.judge(
        events, sessions, bought, sold, grace=config.grace
    )
    unsure = Unsure(events)
    return [v for v in violations if not unsure.forgives(v)] + [
        model.Violation('no error in the log', None, line) for line in lines
    ]


# -- rounds ------------------------------------------------------------------


class Soak:
    """All rounds, on one server."""

    def __init__(self, server, seconds, seed, sabotage=None):
        self.server = server
        self.seconds = seconds
        self.seed = seed
        self.draw = random.Random(seed)
        self.config = Config(
            [server.url], threads=THREADS, processes=1, sabotage=sabotage,
            settings={'sqlasession.check_expiration_interval': INTERVAL},
        )
        self.statuses = Counter()
        self.faults = Counter()
        self.violations = []
        self.wrong = []
        self.rounds = 0
        #: One list of states for each process.
        self.states = [[] for _ in range(PROCESSES)]

    def run(self):
        """Run rounds until the time is over."""
        checker_site.prepare(self.config)
        self.engine = sa.create_engine(self.server.url, poolclass=sa.NullPool)
        # Not fork: this process has threads and connections.
        context = multiprocessing.get_context('spawn')
        pipes, processes = [], []
        for number in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(number, self.config, theirs)
            )
            process.start()
            pipes.append(ours)
            processes.append(process)
        end = time.monotonic() + self.seconds
        number = 0
        try:
            with context.Manager() as manager:
                while time.monotonic() < end - ROUND / 3:
                    self.rounds = number = number + 1
                    length = min(ROUND, end - time.monotonic())
                    self._round(number, length, pipes, manager)
        finally:
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join(20)
                if process.is_alive():
                    self.wrong.append('a process does not end')
                    process.kill()
        self._check_states()

    def _round(self, number, length, pipes, manager):
        self._empty()
        seed = f'{self.seed}/{number}'
        shared = manager.dict()
        end = time.monotonic() + length
        for pipe in pipes:
            pipe.send((seed, length, shared))
        while (left := end - time.monotonic()) > 5:
            # The first third of a round has none.
            time.sleep(min(self.draw.uniform(2, 6), left - 3))
            name = self.draw.choice(FAULTS)
            self.faults[name] += 1
            servers.FAULTS[name](self.server)
        events, lines = [], []
        for pipe, states in zip(pipes, self.states, strict=True):
            if not pipe.poll(length + 90):
                raise RuntimeError(f'a worker hangs (seed {seed})')
            found = pipe.recv()
            events += found[0]
            lines += found[1]
            states.append(pipe.recv())
        self.statuses.update(event.status for event in events)
        self._wait_until_clean()
        found = judge(self.config, events, lines)
        self.violations += found
        print(
            f'round {number}: {len(events)} requests, '
            f'{sum(e.status == 503 for e in events)} refused, '
            f'{len(found)} violations, '
            + ', '.join(f'{s[-1]["memory"] >> 20} MiB' for s in self.states),
            *found, sep='\n  ', flush=True,
        )

    def _empty(self):
        with self.engine.begin() as connection:
            for table in (checker_site.TABLE, 'checker_purchases'):
                connection.execute(sa.text(f'TRUNCATE {table}'))
            connection.execute(sa.text('UPDATE checker_stock SET sold = 0'))
            add_expired_to(
                connection, sa.Table(
                    checker_site.TABLE, sa.MetaData(), autoload_with=connection
                ), EXPIRED,
            )

    def _wait_until_clean(self):
        end = time.monotonic() + CLEAN_WITHIN
        while left := count_expired(self.engine, checker_site.TABLE):
            if time.monotonic() > end:
                self.wrong.append(f'{left} expired records are left')
                return
            time.sleep(0.1)

    def _check_states(self):
        for states in self.states:
            if any(state['checked out'] for state in states):
                self.wrong.append('connections were not given back')
            most = max(s['pool'] for s in states)
            if most > THREADS + 2:
                self.wrong.append(f'the pool has grown to {most}')
            threads = [state['threads'] for state in states]
            if threads[-1] > threads[0]:
                self.wrong.append(f'threads: {threads}')
            self._check_memory([state['memory'] for state in states])

    def _check_memory(self, sizes):
        """The last quarter has no more than the second."""
        if len(sizes) < 4:
            return
        quarter = len(sizes) // 4
        before = statistics.median(sizes[quarter:2 * quarter])
        after = statistics.median(sizes[-quarter:])
        if after > before + MEMORY:
            self.wrong.append(
                'memory has grown, MiB: '
                + ', '.join(str(size >> 20) for size in sizes)
            )

    def rows(self):
        """Return the small table: what was looked at, and what was found."""
        broken = Counter(violation.rule for violation in self.violations)
        faults = ', '.join(f'{n} {f}' for f, n in sorted(self.faults.items()))
        return [
            ('seconds', f'{self.seconds:g}'),
            ('faults', f'{self.faults.total()}: {faults}'),
            ('requests tried', self.statuses.total()),
            ('answered 200', self.statuses[200]),
            ('refused 503', self.statuses[503]),
            ('lost, revived, by half', (self.violations and ', '.join(
                f'{count} {rule}' for rule, count in broken.items()
            )) or 0),
            ('expired records, all deleted', EXPIRED * self.rounds),
            ('memory of each process', self._course('memory', _mebibytes)),
            ('threads of each process', self._course('threads')),
            ('connections in each pool', self._course('pool')),
            ('wrong besides', '; '.join(self.wrong) or 'nothing'),
        ]

    def _course(self, name, shown=str):
        """Return how a value went in each process: first, most, last."""
        values = [
            [state[name] for state in states]
            for states in self.states if states
        ]
        return '; '.join(
            f'{shown(v[0])} at first, {shown(max(v))} at most, '
            f'{shown(v[-1])} at the end' for v in values
        )


def _mebibytes(size):
    return f'{size >> 20} MiB'


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m tests.faults.soak')
    parser.add_argument('seconds', type=float, nargs='?', default=3600)
    parser.add_argument('--seed', default=str(int(time.time())))
    parser.add_argument('--keep', action='store_true',
                        help='write the table for the docs; otherwise only '
                             'after an hour or more')
    parser.add_argument('--sabotage', choices=sorted(sabotage.GUARDS),
                        help='remove a guard: must find violations')
    given = parser.parse_args(argv)
    with servers.PostgreSQL() as server:
        soak = Soak(server, given.seconds, given.seed, given.sabotage)
        soak.run()
    for name, value in soak.rows():
        print(f'{name:<30} {value}')
    # That of a short run, or of a broken build, is not kept.
    if not given.sabotage and (given.keep or given.seconds >= KEPT):
        results.write(
            'soak', ('looked at', 'found'), soak.rows(),
            note=f'The seed was {given.seed}.',
        )
    for violation in soak.violations[:10]:
        print(violation)
    return 1 if soak.violations or soak.wrong else 0


if __name__ == '__main__':
    sys.exit(main())
