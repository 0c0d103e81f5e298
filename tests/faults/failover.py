"""A primary that is lost for good, and its standby that takes over."""

import time

from ..services.pgrepl import TempPair
from .cases import run
from .servers import ask


class Pair(TempPair):
    """As ``servers.PostgreSQL``, with a second one that has it all."""

    def connections(self):
        """Return how many connections to the tests' database there are."""
        # Each of the two has its own; a new one goes to the primary.
        return ask(
            self.url, 'SELECT count(*) FROM pg_stat_activity WHERE '
            'datname = current_database() AND pid <> pg_backend_pid() '
            "AND backend_type = 'client backend'",
        )


def fail_over(pair):
    """The primary's machine goes; the standby is promoted.

    The standby has not got the last of it: none of that was acknowledged.
    """
    pair.hold_back()
    time.sleep(0.3)
    pair.kill_primary()
    # As long as somebody, or something, needs to notice.
    time.sleep(1)
    pair.promote()


def fail_over_and_back(pair):
    """Twice, with the lost one rebuilt as a standby between."""
    fail_over(pair)
    pair.rebuild()
    fail_over(pair)


def lose_standby(pair):
    """The standby's machine goes: each COMMIT waits, until the primary is
    told to go on alone.
    """
    pair.standby.destroy()
    time.sleep(1)
    pair.synchronize(with_standby=False)


FAULTS = {
    'primary killed, standby promoted': fail_over,
    'failover and back': fail_over_and_back,
    'standby killed': lose_standby,
}


def cases():
    """Yield (name, function that returns a Result)."""
    for word in FAULTS:
        name = f'failover/{word}'
        yield name, lambda word=word, name=name: _on_new_pair(word, name)


def _on_new_pair(word, name):
    with Pair() as pair:
        return run(pair, FAULTS[word], name=name)
