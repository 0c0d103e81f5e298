"""``python -m tests.attack``: exit code 0 if all attacks failed, else 1."""

import argparse
import logging
from pathlib import Path
import sys
import tempfile
import time

from ..faults import results
from ..services import databases
from ..services.common import ServerMissing
from ..site import Site
from . import cases
from . import sabotage
from .target import FIELDS
from .target import furnish

COLUMNS = (
    'attack', 'tried', 'survived', 'sessions opened', 'pages broken',
    'rows changed', 'most statements', 'slowest, ms',
)


def main(argv=None):
    parser = argparse.ArgumentParser(prog='python -m tests.attack')
    parser.add_argument('-k', default='', metavar='PART',
                        help='only attacks whose name has it')
    parser.add_argument('--share', type=float, default=1.0, metavar='X',
                        help='try so much of what is usual: 0.01')
    parser.add_argument('--database', default='postgresql',
                        choices=databases.NAMES)
    parser.add_argument('--sabotage', choices=sorted(sabotage.GUARDS),
                        help='remove a guard: something must be found')
    given = parser.parse_args(argv)
    # Each of them is reported there, a hundred thousand times.
    logging.getLogger('pyramid_sqlasession').setLevel(logging.CRITICAL)
    if given.sabotage:
        sabotage.GUARDS[given.sabotage]()
    try:
        found = list(run(given))
    except ServerMissing as missing:
        print(missing)
        return 1
    bad = [result for result in found if not result.is_good]
    for result in bad:
        print(f'\n{result.attack}:', *result.wrong, sep='\n  ')
    # A part of the table, or one of a broken build, is not kept.
    if len(found) == len(cases.CASES) and given.share == 1 and (
        not given.sabotage
    ):
        results.write(
            'attacks', COLUMNS, [row(result) for result in found],
            note=f'The database was {given.database}.',
        )
    return 1 if bad or not found else 0


def run(given):
    """Yield the result of each case that was asked for."""
    show(COLUMNS)
    with tempfile.TemporaryDirectory() as folder, _Sites(
        given.database, folder
    ) as sites:
        for name, (case, count) in cases.CASES.items():
            if given.k not in name:
                continue
            begun = time.monotonic()
            result = case(sites.make, max(1, round(count * given.share)))
            sites.empty()
            took = f'{time.monotonic() - begun:.0f} s'
            show((*row(result), took if result.is_good else f'{took}  FAIL'))
            yield result


class _Sites:
    """Makes applications, each on an empty database."""

    def __init__(self, name, folder):
        self._name = name
        self._folder = folder
        self._server = None
        self._sites = []

    def __enter__(self):
        if self._name != 'sqlite':
            self._server = databases.start(self._name)
        return self

    def __exit__(self, *_):
        if self._server is not None:
            self._server.stop()

    def make(self, **settings):
        """Return a new application, all others closed."""
        self.empty()
        if self._server is None:
            url = f'sqlite:///{self._folder}/attack.sqlite'
        else:
            url = self._server.url
        database = databases.Database(self._name, url)
        site = furnish(Site(database, **FIELDS, **settings))
        site.view(look)
        self._sites.append((site, database))
        return site

    def empty(self):
        while self._sites:
            site, database = self._sites.pop()
            site.close()
            database.dispose()
            if self._server is not None:
                self._server.empty()
        for file in Path(self._folder).glob('attack.sqlite*'):
            file.unlink()


def look(request):
    """Look into a session, whatever it holds."""
    return f'{len(request.session)} {sorted(request.session)[:1]}'


def row(result):
    """Return the cells of a line."""
    statements = '' if result.statements is None else result.statements
    return (
        result.attack, result.tried, result.survived, result.opened,
        result.broken, result.rows, statements,
        f'{result.slowest * 1000:.0f}',
    )


def show(cells):
    """Print one line of the table."""
    first, *rest = cells
    widths = [len(head) for head in COLUMNS[1:]] + [0]
    print(f'{first:<44}', *(
        f'{cell:>{width}}' for cell, width in zip(rest, widths, strict=False)
    ), flush=True)


if __name__ == '__main__':
    sys.exit(main())
