"""``python -m tests.checker``: exit code 0 without violations, else 1."""

import argparse
import sys
import time

from . import sabotage
from .plan import WEIGHTS
from .run import Config
from .run import DEFAULT_SITE
from .run import run


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='python -m tests.checker', description=__doc__
    )
    parser.add_argument(
        '--database', action='append', required=True, metavar='URL',
        help='SQLAlchemy URL; several are the nodes of one Galera cluster',
    )
    parser.add_argument('--seconds', type=float, default=10)
    parser.add_argument('--seed', help='default: the time')
    parser.add_argument('--threads', type=int, default=4)
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--slots', type=int, default=3,
                        help='sessions that are shared at a time')
    parser.add_argument('--operations', type=int,
                        help='of each worker, at most')
    parser.add_argument('--only', default='', metavar='OPERATION,...',
                        help=f'of: {", ".join(WEIGHTS)}')
    parser.add_argument('--isolation', help='"SERIALIZABLE", ...')
    parser.add_argument(
        '--set', action='append', default=[], metavar='NAME=VALUE',
        help='a setting: renewal_interval=2s',
    )
    parser.add_argument('--grace', type=float, default=1.0)
    parser.add_argument('--site', default=DEFAULT_SITE)
    parser.add_argument('--sabotage', choices=sorted(sabotage.GUARDS),
                        help='remove a guard: must find violations')
    given = parser.parse_args(argv)
    verdict = run(Config(
        urls=given.database, seconds=given.seconds,
        seed=given.seed or str(int(time.time())), threads=given.threads,
        processes=given.processes, slots=given.slots,
        operations=given.operations,
        only=list(filter(None, given.only.split(','))),
        isolation=given.isolation, grace=given.grace, site=given.site,
        sabotage=given.sabotage,
        settings={
            f'sqlasession.{name}': value for name, _, value in
            (one.partition('=') for one in given.set)
        },
    ))
    print(verdict.table())
    if verdict.violations:
        print(verdict.details())
        print(f'\nto run it again: --seed {verdict.config.seed}')
    return 1 if verdict.violations else 0


if __name__ == '__main__':
    sys.exit(main())
