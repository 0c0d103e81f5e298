"""What the benchmarks ran on: machine and versions."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version
import json
import os
from pathlib import Path
import platform
import re
import sqlite3
import subprocess

from benchmarks import environment
from tests.services.common import find_program
from tests.services.pgtemp import find_binaries

PACKAGES = (
    'SQLAlchemy', 'psycopg', 'pyramid', 'pyramid_tm', 'zope.sqlalchemy',
    'transaction', 'orjson', 'Django', 'Flask', 'Flask-Session', 'Beaker',
    'pyramid_session_redis', 'hiredis', 'PyMySQL', 'psycopg2-binary',
    'waitress', 'gunicorn',
)
NODE_PACKAGES = (
    'express', 'express-session', 'connect-session-sequelize', 'sequelize',
    'pg',
)


def machine():
    """Return a dict of what it is, for JSON."""
    return {
        'cpu': _cpu(),
        'cores': os.cpu_count(),
        'memory': f'{_memory():.0f} GB',
        'system': f'{_distribution()}, kernel {platform.release()}',
        'versions': _versions(),
    }


def _cpu():
    try:
        text = Path('/proc/cpuinfo').read_text()
        return re.search(r'model name\s*: (.*)', text)[1]
    except (OSError, TypeError):
        return platform.machine()


def _memory():
    return (
        os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
    )


def _distribution():
    try:
        return platform.freedesktop_os_release()['PRETTY_NAME']
    except (OSError, KeyError):
        return platform.system()


def _versions():
    found = {'Python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found['SQLite'] = sqlite3.sqlite_version
    if folder := find_binaries():
        found['PostgreSQL'] = number_of(f'{folder}/postgres', '--version')
    if program := find_program('mariadbd', 'mysqld'):
        # "mysqld  Ver 10.11.6-MariaDB for ..."
        found['MariaDB'] = number_of(program, '--version')
    if program := find_program('redis-server'):
        found['redis'] = number_of(program, '--version')
    if program := find_program('node'):
        found['Node'] = number_of(program, '--version')
    for name in NODE_PACKAGES:
        manifest = environment.NODE / 'node_modules' / name / 'package.json'
        if manifest.exists():
            found[name] = json.loads(manifest.read_text())['version']
    return found


def number_of(*command):
    """Return the version that a program prints, '?' if it prints none."""
    text = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r'\d[\d.]*', text)
    return found[0] if found else '?'
