"""Deterministic interleavings of requests: who waits where, and until when.

A view (or a subscriber, or a patched method) names the place where it stops;
the test says when it may go on.  No sleeps, so the order is the same in every
run::

    def view(request):
        request.session['cart']                        # loads the record
        stage.reach(request.params.get('stop'))        # None does not stop
        request.session['seen'] = True
        return {}

    def test_two_requests(stage, ...):
        slow = stage.run(one.get, '/?stop=a-loaded')   # in a thread
        stage.wait('a-loaded')                         # until it is there
        two.get('/')                                   # meanwhile, here
        stage.let('a-loaded')                          # now it may go on
        response = slow.result()

Every wait ends after ``Stage.timeout`` seconds with an error that says where
every request stands.  A WebTest ``TestApp`` belongs to one thread: give each
request one of its own (over the same application) and copy the cookie.
"""

import sys
import threading
import time
import traceback


class StuckError(AssertionError):
    """A wait took too long; the text says where everybody stands."""


class _Released(BaseException):
    """Ends a request that still waits when its test is over.

    A BaseException, so that no exception view answers it.
    """


class _Barrier:
    def __init__(self):
        self.reached = False
        self.open = False


class Performance:
    """A call that runs in a thread: the future-like of ``Stage.run``."""

    def __init__(self, stage, name, function, args, kwargs):
        self.name = name
        self.collected = False
        self._stage = stage
        self._result = None
        self.error = None
        self.done = False
        self.thread = threading.Thread(
            target=self._perform,
            args=(function, args, kwargs),
            name=f'stage-{name}',
            daemon=True,
        )

    def _perform(self, function, args, kwargs):
        try:
            self._result = function(*args, **kwargs)
        except _Released:
            # The test is over and did not need this call to end.
            pass
        except BaseException as error:
            self.error = error
        finally:
            with self._stage.changed:
                self.done = True
                self._stage.changed.notify_all()

    def result(self, timeout=None):
        """Wait for the end; return what the call returned or raise its error.

        A test that passes without asking for the result of a call that
        failed is failed by the ``stage`` fixture.
        """
        self._stage.wait_for(
            lambda: self.done, f'the end of {self.name!r}', timeout
        )
        self.collected = True
        if self.error is not None:
            raise self.error
        return self._result


class Stage:
    """Named places at which requests stop until the test lets them go on.

    A place, once let go, stays open; it may be let go before anybody has
    reached it.  Use another name for another stop.
    """

    #: Seconds; more than any step of a test takes on a busy machine.
    timeout = 20

    def __init__(self):
        self.changed = threading.Condition()
        self._barriers = {}
        self._performances = []
        self._closed = False

    def run(self, function, *args, **kwargs):
        """Start ``function`` in a thread; return its ``Performance``."""
        name = f'{len(self._performances) + 1}: {_describe(function, args)}'
        performance = Performance(self, name, function, args, kwargs)
        self._performances.append(performance)
        performance.thread.start()
        return performance

    def reach(self, name):
        """Called by a request: stop here until ``let(name)``."""
        if not name:
            return
        with self.changed:
            self._barrier(name).reached = True
            self.changed.notify_all()
        self.wait_for(
            lambda: self._barrier(name).open, f'let({name!r}) by the test'
        )

    def wait(self, *names, timeout=None):
        """Called by the test: wait until requests have reached ``names``.

        Fails at once, with the error, if no request is left that could.
        """
        for name in names:

            def arrived(name=name):
                if self._barrier(name).reached:
                    return True
                if self._performances and all(
                    p.done for p in self._performances
                ):
                    errors = [p.error for p in self._performances if p.error]
                    raise StuckError(
                        f'All requests have ended and none reached {name!r}'
                    ) from (errors[-1] if errors else None)
                return False

            self.wait_for(arrived, f'a request to reach {name!r}', timeout)

    def let(self, *names):
        """Called by the test: let requests pass ``names``, now or later."""
        with self.changed:
            for name in names:
                self._barrier(name).open = True
            self.changed.notify_all()

    def is_waiting(self, name):
        """Tell whether a request has reached ``name`` and was not let go."""
        with self.changed:
            barrier = self._barrier(name)
            return barrier.reached and not barrier.open

    def wait_for(self, condition, what, timeout=None):
        """Wait until ``condition()`` is true; ``StuckError`` if it stays so.

        It is asked whenever anything changes here.
        """
        seconds = self.timeout if timeout is None else timeout
        end = time.monotonic() + seconds
        with self.changed:
            while not condition():
                if self._closed:
                    raise _Released
                left = end - time.monotonic()
                if left <= 0:
                    raise StuckError(
                        f'Waited {seconds} s for {what}.\n{self._describe()}'
                    )
                self.changed.wait(left)

    def close(self):
        """End what still waits; raise an error that no test has seen."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for performance in self._performances:
            performance.thread.join(self.timeout)
            if performance.thread.is_alive():
                raise StuckError(
                    f'{performance.name} does not end.\n{self._describe()}'
                )
        for performance in self._performances:
            if performance.error is not None and not performance.collected:
                raise performance.error

    def _barrier(self, name):
        return self._barriers.setdefault(name, _Barrier())

    def _describe(self):
        lines = [
            f'place {name!r}: '
            + ('reached' if barrier.reached else 'not reached')
            + (', let go' if barrier.open else ', closed')
            for name, barrier in self._barriers.items()
        ]
        frames = sys._current_frames()
        for performance in self._performances:
            if performance.done:
                lines.append(
                    f'request {performance.name}: ended'
                    + (f' with {performance.error!r}' * (
                        performance.error is not None
                    ))
                )
                continue
            lines.append(f'request {performance.name}: runs at')
            if frame := frames.get(performance.thread.ident):
                # The last steps are enough to see the wait or the query.
                lines += traceback.format_stack(frame)[-6:]
        return '\n'.join(line.rstrip() for line in lines)


def _describe(function, args):
    name = getattr(function, '__qualname__', repr(function))
    return f'{name}({", ".join(map(repr, args))})'
