"""``python -m tests.faults``: exit code 0 if nothing was lost, else 1."""

import argparse
import logging
import os
import sys
import time

from ..services.common import ServerMissing
from . import cases
from . import processes
from . import sabotage
from . import servers

COLUMNS = ('fault', 'requests tried', 'answered', 'refused 503', 'lost',
           'half', 'leaked', 'seconds')


def all_cases():
    """Yield (name, function) of everything there is."""
    for kind in (servers.PostgreSQL, servers.MariaDB):
        yield from cases.database_cases(kind)
    yield from processes.cases()


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m tests.faults')
    parser.add_argument('-k', default='', metavar='PART',
                        help='only cases whose name has it')
    parser.add_argument('--sabotage', choices=sorted(sabotage.GUARDS),
                        help='remove a guard: something must be found')
    given = parser.parse_args(argv)
    # Of lost connections, at length.
    logging.getLogger('sqlalchemy.pool').setLevel(logging.CRITICAL)
    logging.getLogger('pyramid_sqlasession').setLevel(logging.ERROR)
    if given.sabotage:
        sabotage.GUARDS[given.sabotage]()
    show(COLUMNS)
    found = [_run(name, case, os.environ.get('REQUIRE') == 'all')
             for name, case in all_cases() if given.k in name]
    bad = [result for result in found if result and not result.is_good]
    for result in bad:
        print(f'\n{result.fault}:', *result.wrong, sep='\n  ')
    return 1 if bad or not found else 0


def _run(name, case, is_required):
    begun = time.monotonic()
    try:
        result = case()
    except ServerMissing as missing:
        print(f'{name}: left out: {missing}')
        if is_required:
            return cases.Result(name, wrong=[str(missing)])
        return None
    show((
        result.fault, result.tried, result.answered, result.refused,
        result.lost, result.half, result.leaked,
        f'{time.monotonic() - begun:.0f}{"" if result.is_good else "  FAIL"}',
    ))
    if result.remark:
        print(f'  {result.remark}')
    return result


def show(cells):
    """Print one line of the table."""
    first, *rest = cells
    print(f'{first:<36}', *(f'{cell:>{len(head)}}' for head, cell in
                            zip(COLUMNS[1:], rest, strict=True)), flush=True)


if __name__ == '__main__':
    sys.exit(main())
