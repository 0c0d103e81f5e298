"""Check what the sdist and the wheel in a folder hold; install the wheel.

    python .ci/check_wheel.py dist
"""

from email import message_from_string
from pathlib import Path
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

from docutils.core import publish_string

PACKAGE = 'pyramid_sqlasession'

# The files that a missing line in setup.py would leave out silently.
IN_WHEEL = [
    f'{PACKAGE}/__init__.py',
    f'{PACKAGE}/py.typed',
]

IN_SDIST = [
    'CHANGES.rst',
    'LICENSE.txt',
    'Makefile',
    'README.rst',
    'demo/__init__.py',
    'development.ini',
    'docs/conf.py',
    'pyproject.toml',
    'setup.py',
    'tests/conftest.py',
]


def fail(message):
    sys.exit(f'check_wheel: {message}')


def only(folder, pattern):
    found = list(folder.glob(pattern))
    if len(found) != 1:
        fail(f'one {pattern} expected in {folder}, found {len(found)}')
    return found[0]


def required_in_wheel():
    """Return the names that must be there: every source file and template."""
    source = Path(PACKAGE)
    return IN_WHEEL + [
        path.as_posix()
        for path in source.rglob('*')
        if path.is_file()
        and (path.suffix == '.py' or path.parent.name == 'templates')
    ]


def check_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(n for n in names if n.endswith('.dist-info/METADATA'))
        metadata = message_from_string(archive.read(info).decode())
    dist_info = info.rpartition('/')[0]
    foreign = [
        name
        for name in names
        if not name.startswith((f'{PACKAGE}/', f'{dist_info}/'))
        or '__pycache__' in name
    ]
    if foreign:
        fail(f'the wheel holds more than the package: {foreign}')
    missing = sorted(set(required_in_wheel()) - set(names))
    if missing:
        fail(f'the wheel lacks {missing}')
    print(f'{wheel.name}: {len(names)} files, only the package')
    return metadata


def check_sdist(sdist):
    with tarfile.open(sdist) as archive:
        # Without the leading `name-version/`.
        names = [name.partition('/')[2] for name in archive.getnames()]
    missing = sorted(set(IN_SDIST) - set(names))
    if missing:
        fail(f'the sdist lacks {missing}')
    built = [n for n in names if '__pycache__' in n or '.sqlite' in n]
    if built:
        fail(f'the sdist holds left-overs: {built}')
    print(f'{sdist.name}: {len(names)} files')


def check_description(metadata):
    """Fail on whatever would keep an index from rendering the README."""
    publish_string(
        metadata.get_payload(),
        writer='html',
        settings_overrides={
            'halt_level': 2,
            'report_level': 2,
            # As an index does: no file of the reader's machine.
            'file_insertion_enabled': False,
            'raw_enabled': False,
        },
    )
    print('README.rst and CHANGES.rst render')


def check_install(wheel):
    """Install the wheel alone, without extras, and import it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, 'bin', 'python')

        def run(*command):
            # Elsewhere, so that the import cannot find the source.
            done = subprocess.run(
                [str(part) for part in command],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                fail(f'{command}:\n{done.stdout}{done.stderr}')
            return done.stdout.strip()

        run(python, '-m', 'pip', 'install', '-q', wheel.resolve())
        run(
            python,
            '-I',
            '-c',
            f'from {PACKAGE} import *; from {PACKAGE} import includeme',
        )
        run(Path(folder, 'bin', 'psessions'), '--help')
        print('installs, imports and has psessions in a clean environment')


def main(folder):
    wheel = only(folder, '*.whl')
    check_description(check_wheel(wheel))
    check_sdist(only(folder, '*.tar.gz'))
    check_install(wheel)


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'dist'))
