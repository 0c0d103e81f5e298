"""Starts the workers, collects their histories, prints the judgement."""

from collections import Counter
import contextlib
from dataclasses import dataclass
from dataclasses import field
import importlib
import multiprocessing
import queue

from . import model
from .plan import PAUSES

DEFAULT_SITE = 'tests.checker.site'


@dataclass
class Config:
    """What is run; pickled to the processes."""

    urls: list[str]
    seconds: float = 5.0
    seed: str = '0'
    threads: int = 4
    processes: int = 2
    #: Sessions that are shared at a time.
    slots: int = 3
    #: Of each worker, at most; for an exact number instead of a time.
    operations: int | None = None
    #: Operations to draw from; all if empty.
    only: list[str] = field(default_factory=list)
    #: Milliseconds that views wait.
    pauses: tuple[int, ...] = PAUSES
    isolation: str | None = None
    #: How often pyramid_retry runs a request at most.
    attempts: int = 60
    #: ``renewal_grace``, seconds.
    grace: float = 1.0
    #: More settings of the package.
    settings: dict[str, str] = field(default_factory=dict)
    site: str = DEFAULT_SITE
    sabotage: str | None = None


@dataclass
class Verdict:
    """What came of a run."""

    config: Config
    events: list
    violations: list

    @property
    def requests(self):
        return len(self.events)

    @property
    def conflicts(self):
        """How many times a request ran again."""
        return sum(event.runs - 1 for event in self.events)

    @property
    def drops(self):
        return sum(len(event.dropped) for event in self.events)

    def table(self):
        """Return the small table that is printed."""
        config = self.config
        often = Counter(event.operation for event in self.events)
        rows = [
            ('requests', self.requests),
            ('of them', ', '.join(f'{n} {o}' for o, n in often.most_common())),
            ('sessions', sum(len(e.created) for e in self.events)),
            ('repeated (conflicts)', self.conflicts),
            ('dropped writes', self.drops),
            ('violations', len(self.violations)),
        ]
        rules = Counter(violation.rule for violation in self.violations)
        rows += [(f'  {rule}', n) for rule, n in rules.most_common()]
        head = (
            f'seed {config.seed}, {config.processes} processes x '
            f'{config.threads} threads, {len(config.urls)} node(s)'
            f'{", " + config.isolation if config.isolation else ""}'
            f'{", without " + config.sabotage if config.sabotage else ""}'
        )
        return '\n'.join(
            [head, *(f'  {name:<22} {value}' for name, value in rows)]
        )

    def details(self, most=5):
        """Return the first violations with what happened around them."""
        lines = []
        for violation in self.violations[:most]:
            lines.append(f'\n{violation}')
            lines += self._around(violation)
        return '\n'.join(lines)

    def _around(self, violation):
        named = [e for e in self.events if e.step in violation.steps]
        if not named:
            return []
        begun = min(e.begun for e in named)
        ended = max(e.ended for e in named)
        near = [
            e for e in self.events
            if e.begun <= ended and e.ended >= begun
            and (e in named or violation.session in (
                e.id, e.target, *e.created, *e.ended_ids
            ))
        ]
        near.sort(key=lambda event: event.begun)
        return [self._line(e, begun, e in named) for e in near[:40]]

    @staticmethod
    def _line(event, begun, named):
        told = [
            f'{name} {value}' for name, value in (
                ('session', (event.id or '-')[-6:]),
                ('result', event.result), ('target', event.target),
                ('sent', (event.sent or '-')[-6:]),
                ('got', event.received and event.received[-6:]),
                ('created', event.created), ('dropped', event.dropped),
            ) if value not in (None, [])
        ]
        return (
            f'  {"*" if named else " "} {event.begun - begun:+8.4f} .. '
            f'{event.ended - begun:+8.4f}  {event.step:<10} '
            f'{event.operation:<8} {event.status}  {", ".join(told)}'
        )


def run(config):
    """Run the checker; return the ``Verdict``."""
    site = importlib.import_module(config.site)
    site.prepare(config)
    events, errors = _collect(config)
    sessions, bought, sold = site.final(config)
    site.clear(config)
    violations = model.judge(
        events, sessions, bought, sold, grace=config.grace
    )
    violations += [
        model.Violation('no error in the log', None, line) for line in errors
    ]
    return Verdict(config, events, violations)


def _collect(config):
    """Return the events, and the logged errors, of all processes."""
    from .worker import run_process

    # Not fork: this process may have threads and connections.
    context = multiprocessing.get_context('spawn')
    with contextlib.ExitStack() as stack:
        shared = {}
        if config.processes > 1:
            shared = stack.enter_context(context.Manager()).dict()
        histories = context.Queue()
        ready = context.Barrier(config.processes)
        processes = [
            context.Process(
                target=run_process,
                args=(number, config, shared, histories, ready),
            )
            for number in range(config.processes)
        ]
        for process in processes:
            process.start()
        try:
            return _gather(config, processes, histories)
        finally:
            for process in processes:
                process.join(20)
                if process.is_alive():
                    process.kill()
                    process.join()
            histories.close()
            histories.join_thread()


def _gather(config, processes, histories):
    events, errors = [], []
    for _ in processes:
        # A request that hangs longer than that is a violation by itself.
        try:
            found = histories.get(timeout=config.seconds + 90)
        except queue.Empty:
            raise RuntimeError(
                f'a worker does not end (seed {config.seed}): '
                f'{[process.exitcode for process in processes]}'
            ) from None
        events += found[0]
        errors += found[1]
    return events, errors
