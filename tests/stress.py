"""``python -m tests.stress``: the checker for a while, on every database.

Starts throw-away servers.  Exit code 0 if no database violated anything.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from .services.galera import TempGalera
from .services.mariatemp import TempMariaDB
from .services.pgtemp import TempPostgres

ISOLATION = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')


def check(name, urls, seconds, *more):
    """Run the checker on *urls*; return whether it found nothing."""
    print(f'==> {name}', flush=True)
    command = [sys.executable, '-m', 'tests.checker', '--seconds', seconds]
    for url in urls:
        command += ['--database', url]
    done = subprocess.run([*command, *more], check=False)
    return done.returncode == 0


def check_all(seconds):
    """Return one result for each database and isolation level."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, 'stress.sqlite')
        yield check('SQLite', [f'sqlite:///{file}'], seconds)
    with TempPostgres() as server:
        for level in ISOLATION:
            yield check(
                f'PostgreSQL, {level}', [server.url], seconds,
                '--isolation', level,
            )
    with TempMariaDB() as server:
        for level in ISOLATION[:2]:
            yield check(
                f'MariaDB, {level}', [server.url], seconds,
                '--isolation', level,
            )


def check_galera(seconds):
    """Return the result on three nodes, the requests spread over them."""
    with TempGalera() as cluster:
        yield check('Galera, three nodes', cluster.urls, seconds)


def main():
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', default='60', help='for each database')
    parser.add_argument('--galera', action='store_true')
    options = parser.parse_args()
    run = check_galera if options.galera else check_all
    if not all(list(run(options.seconds))):
        sys.exit(1)


if __name__ == '__main__':
    main()
