"""Which module of the package may import which: their layers."""

import ast
from pathlib import Path

import pytest

import pyramid_sqlasession

PACKAGE = Path(pyramid_sqlasession.__file__).parent

#: From the ground up: a module imports only from layers below its own.
LAYERS = [
    # Words: what can go wrong, what is told, what a change is; what databases
    # differ in.
    {'errors', 'basetypes', 'workers'},
    {'events', 'faults', 'pooling', 'changes', 'durations',
     'liveness', 'whereabouts', 'transaction'},
    {'dialects'},
    {'serializers', 'datamanager', 'translation'},
    {'values', 'surroundings'},
    {'declarations'},
    {'settings'},
    # What settings are turned into.
    {'cookie', 'model', 'expiry', 'codec', 'advice', 'engine', 'spelling'},
    # What a record holds, and is read by.
    {'lenient', 'retired'},
    # Records; what is done with one of them.
    {'records', 'fieldvalues', 'statements'},
    {'fields'},
    {'libpq', 'sqlite'},
    {'drivers'},
    {'base', 'shortcut'},
    {'pending', 'renewal'},
    {'plan'},
    {'beginning'},
    {'state'},
    {'session', 'saving', 'care', 'watching', 'notices'},
    {'metrics', 'database', 'tracing'},
    # One application; then one request.
    {'application', 'response'},
    {'connections', 'store', 'cleaner', 'authentication'},
    {'loading', 'aftercare', 'attempts', 'extension'},
    {'submission'},
    {'participation'},
    {'lifecycle'},
    {'savepoints', 'latesaving', 'delivery'},
    {'answering'},
    {'wiring'},
    # The command: words and options, what commands have in common, each of
    # them, all of them.
    {'scripts.failures', 'scripts.output', 'scripts.progress',
     'scripts.options', 'scripts.interruption'},
    {'scripts.batches', 'scripts.conditions', 'scripts.starting'},
    {'scripts.stats', 'scripts.listing', 'scripts.showing', 'scripts.table',
     'scripts.revoking', 'scripts.expiring', 'scripts.reencrypting'},
    {'scripts.arguments'},
    # Leaves: found by entry point or dotted name, imported by nobody.
    {'', 'scripts', 'debugtoolbar', 'testing'},
    {'pytest_plugin', 'scripts.__main__'},
]

PATHS = {
    '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
    .removesuffix('__init__').removesuffix('.'): path
    for path in PACKAGE.rglob('*.py')
}


def imports_of(path):
    """Return the modules of the package that *path* imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Its module has no name here, by which it could be judged.
            assert not node.level, (
                f'{path}:{node.lineno}: relative import; name the package'
            )
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition('.')
            if package == PACKAGE.name:
                found.add(module_of(rest))
    return found


def module_of(name):
    """Return the module that a dotted name is, or is in."""
    while name not in PATHS:
        name = name.rpartition('.')[0]
    return name


@pytest.mark.parametrize('name', sorted(PATHS), ids=str)
def test_imports_go_down(name):
    """A module imports only from the layers below its own."""
    (place,) = [i for i, layer in enumerate(LAYERS) if name in layer]
    below = set().union(*LAYERS[:place])
    assert imports_of(PATHS[name]) <= below


def test_the_layers_are_complete():
    """Every module of the package has its place in exactly one layer."""
    named = [name for layer in LAYERS for name in layer]
    assert sorted(named) == sorted(set(named))
    assert set(PATHS) == set(named)
