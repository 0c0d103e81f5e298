"""One fault under a load, and the judgement of what is left."""

from dataclasses import dataclass
from dataclasses import field
import threading
import time

from . import servers
from .load import Load
from .load import Wsgi
from .site import POOL_SIZE
from .site import Site


@dataclass
class Result:
    """A line of the table."""

    fault: str
    tried: int = 0
    answered: int = 0
    refused: int = 0
    #: Keys that were acknowledged and are not there.
    lost: int = 0
    #: Keys of which only the session's or the application's half is there.
    half: int = 0
    #: Sessions' keys that are there although their logout was acknowledged.
    revived: int = 0
    #: Connections that nobody gave back.
    leaked: int = 0
    #: What else was measured, in words.
    remark: str = ''
    #: A sentence for below the table, such as a version; once for all.
    note: str = ''
    #: Whatever else must not be, in words.
    wrong: list = field(default_factory=list)

    @property
    def is_good(self):
        return not (self.lost or self.half or self.revived or self.leaked
                    or self.wrong)


def run(server, fault, *, settle=200, name='', site=None):
    """Return the ``Result`` of *fault* (a function of *server*).

    :param settle: so many requests are answered before, and after.
    """
    threads = threading.active_count()
    site = site or Site(server.url)
    site.create_tables()
    load = Load(Wsgi(site.app))
    try:
        with load:
            load.wait_for(settle)
            before = load.plain[200]
            fault(server)
            during = load.plain[200] - before
            load.wait_for(settle)
        result = judge(name, load, *site.stored())
        result.remark = f'{load.logouts} logouts'
        if not during:
            result.wrong.append('no view without a session was answered')
        check_connections(result, site, server)
        return check_threads(result, site, threads)
    finally:
        site.close()


def judge(name, load, noted, bought):
    """Compare what was acknowledged with what is stored."""
    both = load.acknowledged['buy']
    lost = load.due - noted | (both - bought)
    # A /buy that was refused may be there or not, but not by half.
    half = {
        key for key in both | load.unsure
        if (key in noted) != (key in bought) and not load.may_have_ended(key)
    }
    return Result(
        name, load.tried, load.answered, load.refused, len(lost), len(half),
        len(load.over & noted), wrong=summary(load.wrong),
    )


def summary(wrong):
    """Return the first of each kind, and how many there are."""
    kinds = {}
    for text in wrong:
        kinds.setdefault(text[:60], []).append(text)
    return [f'{len(texts)} x {texts[0]}' for texts in kinds.values()]


def check_connections(result, site, server, timeout=5):
    """Note the connections that nobody gave back, here and at the server."""
    pool = site.engine.pool
    site.stop_cleaner()
    end = time.monotonic() + timeout
    while True:
        # The server needs a moment to notice that a client has gone.
        beyond = max(0, server.connections() - pool.checkedin())
        result.leaked = max(pool.checkedout(), 0) + beyond
        if not result.leaked or time.monotonic() > end:
            break
        time.sleep(0.05)
    if pool.checkedin() > POOL_SIZE or pool.overflow() > 0:
        result.wrong.append(f'the pool has grown: {pool.status()}')
    if result.leaked:
        return
    # All of them work, and as many as there shall be at most.
    connections = [site.engine.connect() for _ in range(POOL_SIZE + 4)]
    for connection in connections:
        connection.close()


def check_threads(result, site, before, timeout=5):
    """Note threads that have not ended."""
    site.close()
    end = time.monotonic() + timeout
    while (more := threading.active_count() - before) > 0:
        # The cleaner may be amid a batch, for which nobody waits that long.
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    if more > 0:
        names = [thread.name for thread in threading.enumerate()]
        result.wrong.append(f'{more} more threads: {names}')
    return result


def database_cases(kind, names=None):
    """Yield (name, function that returns a Result) for one server."""
    for word in names or servers.FAULTS:
        name = f'{kind.name}/{word}'
        yield name, lambda word=word, name=name: _on_new_server(
            kind, word, name
        )


def _on_new_server(kind, word, name):
    with kind() as server:
        return run(server, servers.FAULTS[word], name=name)
