"""The cart."""

from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.view import view_config

from ..cart import MOST_OF_ONE
from .shop import get_tea


@view_config(
    route_name='cart',
    request_method='GET',
    http_cache=0,
    renderer='demo:templates/cart.jinja2',
)
def cart(request: Request) -> dict[str, Any]:
    """Show what is in the cart."""
    lines = list(request.cart.lines())
    return {
        'lines': lines,
        'total': sum(line.cents for line in lines),
        'most': MOST_OF_ONE,
    }


@view_config(route_name='cart_add', request_method='POST')
def add(request: Request) -> HTTPSeeOther:
    """Put a tea into the cart."""
    tea = get_tea(request)
    quantity = read_quantity(request)
    if quantity:
        request.cart.add(tea.slug, quantity)
        request.session.flash(f'{tea.name} is in your cart.', 'success')
    else:
        request.session.flash(
            f'How many tins? A number from 1 to {MOST_OF_ONE}, please.',
            'error',
        )
    return HTTPSeeOther(request.route_path('cart'))


@view_config(route_name='cart_change', request_method='POST')
def change(request: Request) -> HTTPSeeOther:
    """Change how many tins of a tea are wanted, or take it out."""
    tea = get_tea(request)
    quantity = (
        0 if request.POST.get('action') == 'remove' else read_quantity(request)
    )
    if tea.slug not in request.cart:
        # Another tab, or another device's checkout, was faster.
        request.session.flash(
            f'{tea.name} was not in your cart any more.', 'notice'
        )
    elif quantity is None:
        request.session.flash(
            f'How many tins? A number from 0 to {MOST_OF_ONE}, please.',
            'error',
        )
    else:
        request.cart.change(tea.slug, quantity)
        said = (
            'Your cart is up to date.' if quantity else f'{tea.name} is out.'
        )
        request.session.flash(said, 'success')
    return HTTPSeeOther(request.route_path('cart'))


def read_quantity(request: Request) -> int | None:
    """Return the number in the form, or None if it is not a fair one."""
    try:
        quantity = int(request.POST.get('quantity', ''))
    except ValueError:
        return None
    return quantity if 0 <= quantity <= MOST_OF_ONE else None
