"""What the sessions may cost at most: factors of what others cost.

A session's cost is that of a scenario beyond the application without
session; the driver's is that of its statements in a view of the same
application (``raw_view``), as only that is like for like.
"""

#: database -> scenario -> [(system to compare with, factor)]
TARGETS = {
    'postgresql': {
        'S1': [('django_db', 'noise')],
        'S2': [('raw_view', 1.1), ('django_db', 0.4), ('sequelize', 0.55)],
        'S3': [('raw_view', 1.9), ('django_db', 0.48), ('sequelize', 0.5)],
        'S4': [('raw_view', 2.4), ('django_db', 0.33), ('sequelize', 0.45)],
    },
    'sqlite': {
        'S1': [('django_db', 'noise')],
        'S2': [('django_db', 0.3), ('beaker', 0.5)],
        'S3': [('django_db', 0.36)],
        'S4': [('django_db', 0.25)],
    },
}

#: "Within noise" of an anonymous look: so many µs more are not told apart
#: from what one run differs from the next.
NOISE = 25.0


def checks(database, ratio, cost):
    """Yield (scenario, other, limit, reached, kept) for *database*.

    :param ratio: ``ratio(other, scenario)``, None if it was not measured.
    :param cost: ``cost(system, scenario)`` in µs, likewise.
    """
    for scenario, wanted in TARGETS[database].items():
        for other, limit in wanted:
            if limit == 'noise':
                ours = cost('sqlasession', scenario)
                theirs = cost(other, scenario)
                if ours is not None and theirs is not None:
                    more = ours - theirs
                    yield scenario, other, NOISE, more, more <= NOISE
                continue
            reached = ratio(other, scenario)
            if reached is not None:
                yield scenario, other, limit, reached, reached <= limit
