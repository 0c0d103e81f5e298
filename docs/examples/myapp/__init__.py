"""The application that the documentation speaks of."""

from typing import Any

from pyramid.config import Configurator


def main(global_config: dict[str, str], **settings: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include('.models')
        config.include('pyramid_sqlasession')
        config.include('.security')
        config.include('.views')
        config.include('.shop')
    return config.make_wsgi_app()
