"""What goes to users is the package alone, and nothing of this machine."""

from pathlib import Path
import runpy
import subprocess
import sys

import pytest
import setuptools

ROOT = Path(__file__).parent.parent
PACKAGE = 'pyramid_sqlasession'


@pytest.fixture(scope='module')
def metadata():
    """What setup.py hands to setuptools."""
    handed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, 'setup', lambda **kw: handed.update(kw))
        runpy.run_path(str(ROOT / 'setup.py'))
    return handed


def test_only_the_package_is_shipped(metadata):
    """tests, demo and benchmarks stay out of the wheel."""
    assert PACKAGE in metadata['packages']
    assert {name.split('.')[0] for name in metadata['packages']} == {PACKAGE}


def test_every_folder_with_code_is_shipped(metadata):
    """A subpackage without __init__.py would be left out silently."""
    folders = {
        '.'.join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / PACKAGE).rglob('*.py')
    }
    assert folders == set(metadata['packages'])


def test_every_data_file_is_shipped(metadata):
    """py.typed and the templates are in package_data."""
    folder = ROOT / PACKAGE
    shipped = {
        path
        for pattern in metadata['package_data'][PACKAGE]
        for path in folder.glob(pattern)
    }
    data = {
        path
        for path in folder.rglob('*')
        if path.is_file() and path.suffix not in ('.py', '.pyc')
    }
    assert folder / 'py.typed' in shipped
    assert data == shipped


def test_classifiers_agree_with_python_requires(metadata):
    """The lowest Python of the classifiers is the required one."""
    prefix = 'Programming Language :: Python :: 3.'
    minors = [
        int(classifier.removeprefix(prefix))
        for classifier in metadata['classifiers']
        if classifier.startswith(prefix)
    ]
    assert metadata['python_requires'] == f'>=3.{min(minors)}'


def test_no_extra_is_missing_from_testing(metadata):
    """The tests can use every optional feature."""
    extras = metadata['extras_require']
    testing = set(extras['testing'])
    for name in ('postgresql', 'mysql', 'encryption', 'metrics', 'demo'):
        assert testing >= set(extras[name])


def test_no_file_names_this_machine():
    """No text of the repository holds a path of where it is checked out."""
    # A path of one part (/src, /build) may stand for something else.
    folders = (ROOT, Path.home(), Path(sys.prefix), Path(sys.base_prefix))
    paths = {
        str(path)
        for path in folders
        if len(path.parts) > 2 and str(path) != '/usr/local'
    }
    found = {
        f'{file.relative_to(ROOT)}: {path}'
        for file in _sources()
        for path in paths
        if path.encode() in file.read_bytes()
    }
    assert found == set()


def _sources():
    """Return the files that are, or would be, committed."""
    try:
        listed = subprocess.run(
            ['git', 'ls-files', '-z', '-co', '--exclude-standard'],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split('\0')
    except (OSError, subprocess.CalledProcessError):
        # An unpacked sdist, or a machine without git.
        listed = [
            str(path.relative_to(ROOT))
            for folder in (PACKAGE, 'demo', 'docs', 'tests')
            for path in (ROOT / folder).rglob('*')
            if '__pycache__' not in path.parts and '_build' not in path.parts
        ]
    files = (ROOT / name for name in listed if name)
    return [file for file in files if file.is_file()]
