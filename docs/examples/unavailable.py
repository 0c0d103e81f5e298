"""A page for the time when the database is away."""

from pyramid.response import Response

from pyramid_sqlasession import SessionStoreUnavailable


def unavailable(error, request):
    return Response('Back in a moment.', status=503, headers={
        'Retry-After': '30',
        'Cache-Control': 'no-store',
    })


def includeme(config):
    config.add_exception_view(unavailable, context=SessionStoreUnavailable)
