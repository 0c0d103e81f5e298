"""Leaf & Ledger, a small tea shop that shows ``pyramid_sqlasession``.

Started by ``pserve development.ini``; it is not part of the distribution.
"""

from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router

from .seed import prepare_database

TEMPLATES = {
    'jinja2.undefined': 'strict',
    'jinja2.trim_blocks': 'true',
    'jinja2.lstrip_blocks': 'true',
    'jinja2.filters': {
        'money': 'demo.text.money',
        'moment': 'demo.text.moment',
        'iso': 'demo.text.iso',
        'ago': 'demo.text.ago',
        'until': 'demo.text.until',
        'browser': 'demo.text.browser',
    },
}


def main(global_config: dict[str, str] | None, **settings: Any) -> Router:
    """Return the shop as a WSGI application.

    Missing tables and products are created, so that nothing has to be run
    before the first ``pserve``.
    """
    with Configurator(settings={**TEMPLATES, **settings}) as config:
        config.include('pyramid_jinja2')
        config.include('.models')
        config.include('pyramid_sqlasession')
        config.include('.security')
        config.include('.cart')
        config.include('.routes')
        config.scan('.views')
    prepare_database(config.registry['dbsession_factory'])
    return config.make_wsgi_app()
