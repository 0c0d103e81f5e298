"""``python -m tests.faults``: exit code 0 if nothing was lost, else 1."""

import argparse
import logging
import os
import sys
import time

from ..services.common import ServerMissing
from . import cases
from . import cluster
from . import failover
from . import processes
from . import results
from . import sabotage
from . import servers

COLUMNS = ('fault', 'requests tried', 'answered', 'refused 503', 'lost',
           'half', 'revived', 'leaked', 'seconds')


def groups():
    """Return the cases, (name, function), by the file of their results."""
    return {
        'databases': [
            case for kind in (servers.PostgreSQL, servers.MariaDB)
            for case in cases.database_cases(kind)
        ],
        'failover': list(failover.cases()),
        'galera': list(cluster.cases()),
        'processes': list(processes.cases()),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m tests.faults')
    parser.add_argument('-k', default='', metavar='PART',
                        help='only cases whose name has it')
    parser.add_argument('--group', choices=groups(),
                        help='only cases of this group')
    parser.add_argument('--sabotage', choices=sorted(sabotage.GUARDS),
                        help='remove a guard: something must be found')
    given = parser.parse_args(argv)
    # Of lost connections, at length.
    logging.getLogger('sqlalchemy.pool').setLevel(logging.CRITICAL)
    logging.getLogger('pyramid_sqlasession').setLevel(logging.ERROR)
    if given.sabotage:
        sabotage.GUARDS[given.sabotage]()
        # In the processes that are started, too.
        os.environ[sabotage.VARIABLE] = given.sabotage
    show(COLUMNS)
    found = []
    for name, group in groups().items():
        if given.group not in (None, name):
            continue
        chosen = [case for case in group if given.k in case[0]]
        group_found = list(filter(None, map(_run, chosen)))
        # A part of the table, or one of a broken build, is not kept.
        if len(group_found) == len(group) and not given.sabotage:
            keep(name, group_found)
        found += group_found
    bad = [result for result in found if not result.is_good]
    for result in bad:
        print(f'\n{result.fault}:', *result.wrong, sep='\n  ')
    return 1 if bad or not found else 0


def _run(named):
    name, case = named
    begun = time.monotonic()
    try:
        result = case()
    except ServerMissing as missing:
        print(f'{name}: left out: {missing}')
        if os.environ.get('REQUIRE') == 'all':
            return cases.Result(name, wrong=[str(missing)])
        return None
    took = f'{time.monotonic() - begun:.0f}'
    show((*row(result), took if result.is_good else f'{took}  FAIL'))
    if result.remark:
        print(f'  {result.remark}')
    return result


def keep(name, found):
    """Write the lines of a group to the file that the docs include."""
    with_remarks = any(result.remark for result in found)
    results.write(
        name, [*COLUMNS[:-1], *['remark'] * with_remarks],
        [[*row(result), *[result.remark] * with_remarks]
         for result in found],
        note=' '.join(sorted({r.note for r in found if r.note})),
    )


def row(result):
    """Return what is in all columns but the last."""
    return (
        result.fault, result.tried, result.answered, result.refused,
        result.lost, result.half, result.revived, result.leaked,
    )


def show(cells):
    """Print one line of the table."""
    first, *rest = cells
    print(f'{first:<42}', *(f'{cell:>{len(head)}}' for head, cell in
                            zip(COLUMNS[1:], rest, strict=True)), flush=True)


if __name__ == '__main__':
    sys.exit(main())
