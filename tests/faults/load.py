"""Threads that send requests until they are told to stop."""

from collections import Counter
import contextlib
import itertools
import random
import threading
import time
import urllib.error
import urllib.request

from webtest import TestApp

THREADS = 8
#: A session gets so many keys, then the thread begins another one.
KEYS = 12
WORDS = ('look', 'note', 'buy', 'buy')


class Wsgi:
    """Sends requests to an application of this process."""

    def __init__(self, app):
        self._app = app

    def get(self, path, cookie):
        """Return (status or the error's name, cookie as it is now)."""
        headers = {'Cookie': cookie} if cookie else {}
        try:
            answer = TestApp(self._app).get(
                path, headers=headers, expect_errors=True
            )
        except Exception as error:
            return f'{type(error).__name__}: {error}'[:300], cookie
        given = answer.headers.get('Set-Cookie')
        return answer.status_int, _value(given) or cookie


class Http:
    """Sends requests to a server; a connection each."""

    def __init__(self, url):
        self._url = url

    def get(self, path, cookie):
        """As ``Wsgi.get``; a connection that was cut is a refusal (503)."""
        headers = {'Cookie': cookie} if cookie else {}
        asked = urllib.request.Request(  # noqa: S310 - http, ours
            self._url + path, headers=headers
        )
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
                given = answer.headers.get('Set-Cookie')
                return answer.status, _value(given) or cookie
        except urllib.error.HTTPError as error:
            # Its body is a file.
            with error:
                return error.code, cookie
        except OSError:
            return 503, cookie


class Spread:
    """Sends each request to the next of several clients, in turns."""

    def __init__(self, clients):
        self._clients = clients
        self._turns = itertools.count()
        #: Of each client: how often it gave which status.
        self.statuses = [Counter() for _ in clients]

    def get(self, path, cookie):
        """As ``Wsgi.get``."""
        number = next(self._turns) % len(self._clients)
        status, given = self._clients[number].get(path, cookie)
        self.statuses[number][status] += 1
        return status, given


def _value(header):
    return header.partition(';')[0] if header else None


class Load:
    """Requests of ``THREADS`` threads with sessions, and of one without.

    ``with Load(client) as load:`` runs it; afterwards ``tried``,
    ``answered``, ``refused``, ``wrong``; ``acknowledged`` (keys), and of
    these ``due``, those that have to be in a session now.

    Half of the sessions end by a logout, while other threads use them.
    """

    def __init__(self, client, threads=THREADS, seed=0):
        self._client = client
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        #: Of each thread: its session's cookie now.  Others use it too.
        self._cookies = [None] * threads
        self.statuses = Counter()
        self.plain = Counter()
        #: Seconds of the slowest request to a view with a session.
        self.slowest = 0.0
        #: Seconds of the slowest request to the view without a session.
        self.slowest_plain = 0.0
        #: Keys by the view that wrote them, and was answered with 200.
        self.acknowledged = {'note': set(), 'buy': set()}
        #: Keys of /buy that were answered with anything else.
        self.unsure = set()
        #: Cookies of sessions whose end was asked for, and acknowledged.
        self._ending, self._ended = set(), set()
        self._cookie_of = {}
        self.wrong = []
        self._threads = [
            threading.Thread(target=self._run, args=(n, f'{seed}/{n}'))
            for n in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._run_plain))

    def _run(self, number, seed):
        draw = random.Random(seed)
        keys = 0
        while not self._stop.is_set():
            if keys >= KEYS:
                keys = 0
                if draw.random() < 0.5 and self._cookies[number]:
                    self._log_out(number)
                self._cookies[number] = None
            # Every third request is for the session of another thread.
            owner = draw.choice((number, number, number - 1))
            keys += owner == number
            status = self._ask(draw.choice(WORDS), owner)
            if status != 200:
                # As a person would; a refusal can be quick.
                self._stop.wait(0.02)

    def _ask(self, word, owner):
        key = f'k{next(self._numbers)}'
        cookie = self._cookies[owner]
        begun = time.monotonic()
        status, given = self._client.get(f'/{word}?key={key}', cookie)
        took = time.monotonic() - begun
        with self._lock:
            self.statuses[status] += 1
            self.slowest = max(self.slowest, took)
            self._cookie_of[key] = given
            if cookie not in (None, given) and cookie not in self._ending:
                self.wrong.append(f'/{word}: a live session was not found')
            if given != cookie and self._cookies[owner] is cookie:
                self._cookies[owner] = given
            if status == 200 and word in self.acknowledged:
                self.acknowledged[word].add(key)
            elif word == 'buy':
                self.unsure.add(key)
            if status not in (200, 503):
                self.wrong.append(f'/{word}: {status}')
        return status

    def _log_out(self, number):
        cookie = self._cookies[number]
        with self._lock:
            self._ending.add(cookie)
        status, _ = self._client.get('/logout', cookie)
        with self._lock:
            self.statuses[status] += 1
            if status == 200:
                self._ended.add(cookie)
            elif status != 503:
                self.wrong.append(f'/logout: {status}')

    def _run_plain(self):
        while not self._stop.wait(0.005):
            begun = time.monotonic()
            status, _ = self._client.get('/plain', None)
            self.plain[status] += 1
            self.slowest_plain = max(
                self.slowest_plain, time.monotonic() - begun
            )
            if status != 200:
                self.wrong.append(f'/plain: {status}')

    @property
    def due(self):
        """Keys that were acknowledged, of sessions nobody asked to end."""
        return {
            key for keys in self.acknowledged.values() for key in keys
            if not self.may_have_ended(key)
        }

    @property
    def over(self):
        """Keys that were acknowledged, of sessions that are logged out."""
        return {
            key for keys in self.acknowledged.values() for key in keys
            if self._cookie_of[key] in self._ended
        }

    def may_have_ended(self, key):
        """Return whether the end of the key's session was asked for."""
        return self._cookie_of[key] in self._ending

    @property
    def logouts(self):
        """How many logouts were acknowledged."""
        return len(self._ended)

    @property
    def tried(self):
        return self.statuses.total()

    @property
    def answered(self):
        return self.statuses[200]

    @property
    def refused(self):
        return self.statuses[503]

    def wait_for(self, answers, timeout=60):
        """Wait until so many more requests have been answered with 200."""
        goal = self.answered + answers
        end = time.monotonic() + timeout
        while self.answered < goal and time.monotonic() < end:
            time.sleep(0.01)
        if self.answered < goal:
            self.wrong.append(f'no {answers} answers within {timeout} s')

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):
                thread.join(60)
        hanging = sum(thread.is_alive() for thread in self._threads)
        if hanging:
            self.wrong.append(f'{hanging} threads hang')
