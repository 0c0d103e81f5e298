"""A page for the time when the database is away."""

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_sqlasession import SessionStoreUnavailable


def unavailable(
    error: SessionStoreUnavailable, request: Request
) -> Response:
    return Response('Back in a moment.', status=503, headers={
        'Retry-After': '30',
        'Cache-Control': 'no-store',
    })


def includeme(config: Configurator) -> None:
    config.add_exception_view(unavailable, context=SessionStoreUnavailable)
