"""The directive ``module-list``: modules, each in its own words.

Names of modules of the package are its content, or of the folder that is its
argument.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = 'pyramid_sqlasession'


def path_of(folder: str, name: str) -> Path:
    """Return the file of a module, or of a folder's ``__init__``."""
    path = ROOT / folder / name
    if path.is_dir():
        return path / '__init__.py'
    return path.with_suffix('.py')


def said_by(path: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    words = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    if not words:
        raise ValueError(f'{path.relative_to(ROOT)} has no docstring')
    return ' '.join(words.split('\n\n')[0].split())


def as_rst(folder: str, names: list[str]) -> list[str]:
    """Return a table of the modules as lines of reStructuredText."""
    lines = ['.. list-table::', '   :widths: 22 78', '']
    for name in names:
        lines += [
            f'   * - ``{name}``',
            f'     - {said_by(path_of(folder, name))}',
        ]
    return lines


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    from docutils import nodes
    from docutils.statemachine import StringList
    from sphinx.util.docutils import SphinxDirective

    class ModuleList(SphinxDirective):
        has_content = True
        optional_arguments = 1

        def run(self) -> list[Any]:
            folder = self.arguments[0] if self.arguments else PACKAGE
            names = ' '.join(self.content).split()
            for name in names:
                self.env.note_dependency(str(path_of(folder, name)))
            container = nodes.container()
            self.state.nested_parse(
                StringList(as_rst(folder, names), 'modules'),
                self.content_offset, container,
            )
            return container.children

    app.add_directive('module-list', ModuleList)
    return {'parallel_read_safe': True}
