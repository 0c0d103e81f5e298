"""The types that the package gives to an application's code."""

import importlib
import inspect
import os
from pathlib import Path
from typing import get_type_hints

from mypy import api

import pyramid_sqlasession
from pyramid_sqlasession.authentication import SessionAuthenticationHelper
from pyramid_sqlasession.pytest_plugin import FrozenClock
from pyramid_sqlasession.serializers import JSONSerializer
from pyramid_sqlasession.store import StoredSession

HERE = Path(__file__).parent / 'typing'
EXAMPLES = Path(__file__).parents[1] / 'docs' / 'examples'
ROOT = Path(pyramid_sqlasession.__file__).parents[1]
# Not that of `make types`, which takes other options.
CACHE = ROOT / '.mypy_cache' / 'typing'


def test_strict_mypy_over_an_application(monkeypatch):
    """mypy --strict knows request.session, and refuses what is wrong."""
    # An ``ignore`` that hides nothing is an error.
    monkeypatch.setenv('MYPYPATH', str(ROOT))
    out, err, status = api.run([
        '--config-file', str(HERE / 'mypy.ini'),
        # As if the package was installed: `make types` checks itself.
        '--follow-imports', 'silent',
        '--cache-dir', str(CACHE),
        str(HERE / 'shop.py'),
    ])
    assert (out, err, status) == (
        'Success: no issues found in 1 source file\n', '', 0
    )


def test_strict_mypy_over_the_examples(monkeypatch):
    """mypy --strict has nothing to say about docs/examples."""
    monkeypatch.setenv('MYPYPATH', os.pathsep.join([str(ROOT), str(EXAMPLES)]))
    out, err, status = api.run([
        '--config-file', str(HERE / 'mypy.ini'),
        '--follow-imports', 'silent',
        '--cache-dir', str(CACHE),
        str(EXAMPLES),
    ])
    count = len(list(EXAMPLES.rglob('*.py')))
    assert (out, err, status) == (
        f'Success: no issues found in {count} source files\n', '', 0
    )


def test_annotations_can_be_read():
    """What reads them at run time finds each name that they have."""
    public = [
        getattr(pyramid_sqlasession, name)
        for name in pyramid_sqlasession.__all__
    ]
    for one in [
        *public, StoredSession, SessionAuthenticationHelper, JSONSerializer,
        FrozenClock,
    ]:
        if inspect.isfunction(one):
            get_type_hints(one)
        for _, method in inspect.getmembers(one, inspect.isfunction):
            get_type_hints(method)


def test_every_public_name_has_a_type():
    """py.typed is there, and __all__ names what can be imported."""
    package = Path(pyramid_sqlasession.__file__).parent
    assert (package / 'py.typed').is_file()
    module = importlib.import_module('pyramid_sqlasession')
    for name in module.__all__:
        assert getattr(module, name) is not None
