"""Two requests of one browser that meet, in an order that a case sets."""

from benchmarks.peers.browser import send
from tests.interleaving import Stage

#: What a case may put into the session.
KEYS = ('n', 'a', 'b', 'd', 'user', 'cart', 'order')


class Trial:
    """One run of one case: one browser, and nothing stored before.

    :param apart: the same requests one after the other.  Whatever is counted
        then is not a matter of their meeting.
    """

    def __init__(self, system, *, apart=False):
        self.system = system
        self.apart = apart
        self.jar = {}
        #: Whether requests met, and how many of them got an error page.
        self.has_met, self.errors = False, 0
        self._groups = 0
        self._stage = Stage()
        system.clear()

    def close(self):
        self._stage.close()

    def visit(self, act, jar=None):
        """Send a request; return its answer, after the browser got it."""
        jar = self.jar if jar is None else jar
        answer = send(self.system.app, act, jar)
        answer.apply(jar)
        return answer

    def look(self, jar=None):
        """Return what the session has for the next page, as a dict."""
        found = {}

        def act(handle):
            found.update({key: handle.get(key) for key in KEYS})

        self.visit(act, jar)
        return {k: v for k, v in found.items() if v is not None}

    def show(self):
        """Return the flash messages that the next page shows."""
        shown = []
        self.visit(lambda handle: shown.extend(handle.pop()))
        return shown

    def meet(self, a, b):
        """Let A load the session, B come and go, and A end.

        :param b: what another request does; or a method of the system.
        """
        self.has_met = True
        if getattr(b, '__self__', None) is self.system:
            meanwhile = b
        else:

            def meanwhile():
                self._check(self.visit(b))

        if self.apart:
            self._check(self.visit(a))
            meanwhile()
            return
        slow = self._start(a, 'A has loaded')
        self._stage.wait('A has loaded')
        meanwhile()
        self._stage.let('A has loaded')
        self._check(slow.result()).apply(self.jar)

    def together(self, act, count):
        """Let *count* requests load, and then end in any order.

        Returns how many of them were answered without an error.
        """
        if self.apart:
            answers = [self.visit(act) for _ in range(count)]
        else:
            # Of this call: a place, once let go, stays open.
            self._groups += 1
            places = [f'{self._groups}.{n}' for n in range(count)]
            slow = [self._start(act, place) for place in places]
            self._stage.wait(*places)
            self._stage.let(*places)
            answers = [one.result() for one in slow]
        return sum(self._check(one).status == 200 for one in answers)

    def _start(self, act, place):
        def slow(handle):
            # The first look at the session loads it, in each system.
            handle.get('n')
            self._stage.reach(place)
            act(handle)

        # The cookies of this moment.
        return self._stage.run(send, self.system.app, slow, dict(self.jar))

    def _check(self, answer):
        self.errors += answer.status >= 400
        return answer
