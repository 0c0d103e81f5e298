"""A checkout that may fail half-way."""

from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPConflict
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request

from pyramid_sqlasession import SessionConflict

from .models import Order


class CardDeclined(Exception):
    """The bank said no."""


# begin checkout
def checkout(request: Request) -> HTTPSeeOther:
    cart = request.session.pop('cart', [])
    if not cart:
        # Or a second click, which finds what the first one has left.
        request.session.flash('Your cart is empty.')
        return HTTPSeeOther('/')
    for item in cart:
        request.dbsession.add(Order(item=item))
    request.session.flash('Thank you for your order.')
    charge(request.POST['card'])
    return HTTPSeeOther('/')


def declined(error: CardDeclined, request: Request) -> HTTPSeeOther:
    request.session.flash('Your card was declined. Nothing was ordered.')
    return HTTPSeeOther('/')
# end checkout


# begin busy
def busy(error: SessionConflict, request: Request) -> HTTPConflict:
    request.session.flash('Too much at once. Please try again.')
    return HTTPConflict()
# end busy


def charge(card: str) -> None:
    if card == 'broken':
        raise CardDeclined()


def put(request: Request) -> HTTPSeeOther:
    request.session.setdefault('cart', []).append(request.POST['item'])
    return HTTPSeeOther('/')


def cart(request: Request) -> dict[str, Any]:
    return {'cart': request.session.get('cart', [])}


def includeme(config: Configurator) -> None:
    for view in (checkout, put):
        name = view.__name__
        config.add_route(name, f'/{name}')
        config.add_view(view, route_name=name, request_method='POST')
    config.add_route('cart', '/cart')
    config.add_view(cart, route_name='cart', renderer='json')
    config.add_exception_view(declined, context=CardDeclined)
    config.add_exception_view(busy, context=SessionConflict)
