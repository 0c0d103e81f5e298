"""The round trips of this package's scenarios, counted by a proxy."""

#: psycopg prepares a statement at its sixth use, which takes a trip.
_WARM_UP = 12


def count(url):
    """Return {scenario: [first word of each round trip]}."""
    from benchmarks.systems import sqlasession
    from tests.roundtrips import RoundTrips

    with RoundTrips(url) as proxy:
        calls = sqlasession.make(proxy.url)
        found = {}
        for name, call in calls.items():
            for _ in range(_WARM_UP):
                call()
            proxy.clear()
            call()
            found[name] = proxy.verbs
    return found
