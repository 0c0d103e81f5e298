"""One process of workers: runs plans over WSGI and notes what it is told."""

from collections import deque
import importlib
import json
import logging
import threading
import time
import traceback

from webtest import TestApp

from .history import Event
from .plan import SHARED
from .plan import steps

COOKIE = 'session'
#: Tokens of earlier times that are kept for the operation ``stale``.
OLD_TOKENS = 6


class Jar:
    """The cookies of the shared sessions, as browsers would have them.

    On a manager's dict, so that all processes see the same ones.
    """

    def __init__(self, shared):
        self._shared = shared

    def current(self, slot):
        """Return (token, id) of *slot*, or (None, None)."""
        return self._shared.get(slot) or (None, None)

    def old(self, slot, choice):
        """Return a token that *slot* had some time ago, or None."""
        tokens = self._shared.get(f'old-{slot}') or ()
        return tokens[int(choice * len(tokens))] if tokens else None

    def take(self, slot, event):
        """Keep the cookie of the answer *event*.

        Unlike a browser's, a cookie of another session than that of *slot*
        is let go: all workers are to meet in one session.
        """
        token, _ = self.current(slot)
        if event.received in (None, event.sent) or token not in (
            None, event.sent
        ):
            return
        if token is not None:
            old = deque(self._shared.get(f'old-{slot}') or (), OLD_TOKENS)
            old.append(token)
            self._shared[f'old-{slot}'] = tuple(old)
        session_id = (event.created or [event.id])[-1]
        self._shared[slot] = (
            (event.received, session_id) if event.received else None
        )


class Worker:
    """One thread: one request after the other."""

    def __init__(self, name, config, apps, jar, goods):
        self.name = name
        self.events = []
        self._config = config
        self._apps = apps
        self._jar = jar
        self._goods = goods

    def run(self, end):
        """Follow the plan until *end* (monotonic) or its last step."""
        plan = steps(
            self._config.seed, self.name, slots=self._config.slots,
            nodes=len(self._apps), only=self._config.only,
            pauses=self._config.pauses,
        )
        for number, step in enumerate(plan):
            if number == self._config.operations or time.monotonic() > end:
                break
            self._do(step)

    def _do(self, step):
        token, session_id = self._jar.current(step.slot)
        operation = step.operation
        target = self._target(step, session_id)
        if operation == 'stale':
            token = self._jar.old(step.slot, step.choice)
            operation = 'set' if step.choice < 0.5 else 'look'
        elif token is None:
            operation = 'arrive'
        if operation == 'delete' and target is None:
            operation = 'look'
        if operation == 'revoke':
            token = None
        event = Event(
            step.name, operation, time.monotonic(), sent=token, target=target
        )
        self._ask(event, step)
        self.events.append(event)
        self._jar.take(step.slot, event)

    def _target(self, step, session_id):
        """Return what *step* is about, of what there is at this moment."""
        if step.operation == 'share':
            return SHARED[int(step.choice * len(SHARED))]
        if step.operation == 'buy':
            return str(int(step.choice * self._goods))
        if step.operation == 'revoke':
            return session_id
        if step.operation == 'delete':
            mine = [e.step for e in self.events if e.operation == 'set']
            return mine[int(step.choice * len(mine))] if mine else None
        return None

    def _ask(self, event, step):
        app = TestApp(self._apps[step.node])
        headers = {'Cookie': f'{COOKIE}={event.sent}'} if event.sent else {}
        query = {'step': step.name, 'pause': str(step.pause)}
        if event.target is not None:
            query['target'] = event.target
        try:
            response = app.get(
                f'/{event.operation}', query, headers=headers, status='*',
                expect_errors=True,
            )
        except Exception:
            event.status = 500
            # Without SQLAlchemy's last line, which is the same for all.
            event.error = traceback.format_exc().partition('\n(Background')[0]
        else:
            self._note(event, response)
        event.ended = time.monotonic()

    @staticmethod
    def _note(event, response):
        event.status = response.status_int
        told = json.loads(response.headers.get('X-Checker', '{}'))
        event.created = told.get('created', [])
        event.ended_ids = told.get('ended', [])
        event.dropped = told.get('dropped', [])
        event.runs = told.get('runs', 1)
        for header in response.headers.getall('Set-Cookie'):
            name, _, rest = header.partition('=')
            if name == COOKIE:
                event.received = rest.partition(';')[0]
        if event.status != 200:
            event.error = response.text
            return
        answer = response.json
        event.id = answer['id']
        event.seen = answer['seen']
        event.result = answer['result']


class ErrorLog(logging.Handler):
    """Keeps what is logged as an error; a dropped write is none."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def run_process(number, config, shared, histories, ready):
    """Run the workers of process *number*; put in a queue what they noted:
    their events, and the errors that were logged.
    """
    errors = ErrorLog()
    logging.getLogger().addHandler(errors)
    site = importlib.import_module(config.site)
    apps = site.make_apps(config)
    jar = Jar(shared)
    workers = [
        Worker(f'p{number}t{thread}', config, apps, jar, site.GOODS)
        for thread in range(config.threads)
    ]
    ready.wait()
    end = time.monotonic() + config.seconds
    threads = [
        threading.Thread(target=worker.run, args=(end,), name=worker.name)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for app in apps:
        app.close()
    histories.put(
        ([e for worker in workers for e in worker.events], errors.lines)
    )
