"""Sphinx configuration; `make docs` treats every warning as an error."""

from importlib.metadata import version as installed_version
from pathlib import Path
import sys

from pylons_sphinx_themes import get_html_themes_path

sys.path.insert(0, str(Path(__file__).parent / '_ext'))

project = 'pyramid_sqlasession'
author = 'The pyramid_sqlasession authors'
copyright = f'2026, {author}'
release = installed_version('pyramid_sqlasession')
version = release

extensions = [
    'capacity',
    'metric_list',
    'module_list',
    'settings_table',
    'sphinx.ext.autodoc',
]

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'

exclude_patterns = ['_build']
root_doc = 'index'

# The theme of Pyramid's own add-ons, without its link to Pyramid's repository.
html_theme = 'pyramid'
html_theme_path = get_html_themes_path()
html_theme_options = {'github_url': ''}
html_static_path = ['_static']
html_css_files = ['narrow.css']
html_title = f'{project} {release}'


def setup(app):
    """Leave the name ``type`` alone when annotations are looked up.

    Two errors have an attribute of that name, which Sphinx would take
    ``type[Any]`` for.
    """
    app.connect('doctree-read', _drop_builtin)


def _drop_builtin(app, doctree):
    from sphinx.addnodes import pending_xref

    for node in doctree.findall(pending_xref):
        if node.get('reftarget') == 'type':
            node.replace_self(node.children)
