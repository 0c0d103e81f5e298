"""A whole application in one file: a counter in the session."""

from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response


def hello(request: Request) -> Response:
    n = request.session.get('n', 0) + 1
    request.session['n'] = n
    return Response(f'You were here {n} times.')


def main(global_config: dict[str, str], **settings: Any) -> Any:
    with Configurator(settings=settings) as config:
        config.include('pyramid_sqlasession')
        config.add_route('hello', '/')
        config.add_view(hello, route_name='hello')
    return config.make_wsgi_app()


if __name__ == '__main__':
    from wsgiref.simple_server import make_server

    app = main(
        {},
        **{
            'sqlalchemy.url': 'sqlite:///minimal.sqlite',
            'sqlasession.create_table': 'true',
        },
    )
    make_server('localhost', 6543, app).serve_forever()
