"""Paying, and the orders that come of it."""

from typing import Any

from pyramid.httpexceptions import HTTPNotFound
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.view import view_config
from sqlalchemy import select

from ..errors import PaymentError
from ..models import Order
from ..models import OrderLine

BROKEN_CARD = 'broken'


@view_config(
    route_name='checkout',
    request_method='GET',
    permission='account',
    http_cache=0,
    renderer='demo:templates/checkout.jinja2',
)
def checkout(request: Request) -> dict[str, Any] | HTTPSeeOther:
    """Show what is going to be paid."""
    lines = list(request.cart.lines())
    if not lines:
        return nothing_to_pay(request)
    return {'lines': lines, 'total': sum(line.cents for line in lines)}


@view_config(
    route_name='checkout', request_method='POST', permission='account'
)
def place_order(request: Request) -> HTTPSeeOther:
    """Write the order and empty the cart, in one transaction.

    With the broken card everything is done all the same, and then an error
    is raised: neither the order, nor the empty cart, nor the good news may
    outlive it.
    """
    order = write_order(request)
    if order is None:
        return nothing_to_pay(request)
    request.cart.clear()
    request.session.flash(f'Order no. {order.id} placed.', 'success')
    charge(request.POST.get('card'), order)
    return HTTPSeeOther(request.route_path('order', number=order.id))


def write_order(request: Request) -> Order | None:
    """Write the cart as an order; None if there is nothing in it."""
    lines = [
        OrderLine(
            tea=line.tea,
            name=line.tea.name,
            cents=line.tea.cents,
            quantity=line.quantity,
        )
        for line in request.cart.lines()
    ]
    if not lines:
        return None
    order = Order(user_id=request.authenticated_userid, lines=lines)
    request.dbsession.add(order)
    # The number is wanted for the message: the database gives it at INSERT.
    request.dbsession.flush()
    return order


def charge(card: str | None, order: Order) -> None:
    """Charge the card; raises ``PaymentError`` for the broken one."""
    if card == BROKEN_CARD:
        raise PaymentError(
            f'The bank declined that card. Order no. {order.id} was written '
            'and taken back; your cart is as you left it, and nothing was '
            'charged.',
            'cart',
        )


def nothing_to_pay(request: Request) -> HTTPSeeOther:
    """Send somebody with an empty cart back to it."""
    request.session.flash('There is nothing in your cart to pay.', 'notice')
    return HTTPSeeOther(request.route_path('cart'))


@view_config(
    route_name='orders',
    request_method='GET',
    permission='account',
    http_cache=0,
    renderer='demo:templates/orders.jinja2',
)
def orders(request: Request) -> dict[str, Any]:
    """Show the account's orders, newest first."""
    mine = Order.user_id == request.authenticated_userid
    found = select(Order).where(mine).order_by(Order.id.desc())
    return {'orders': request.dbsession.scalars(found).all()}


@view_config(
    route_name='order',
    request_method='GET',
    permission='account',
    http_cache=0,
    renderer='demo:templates/order.jinja2',
)
def order(request: Request) -> dict[str, Any]:
    """Show one order; somebody else's does not exist."""
    found = request.dbsession.get(Order, int(request.matchdict['number']))
    if found is None or found.user_id != request.authenticated_userid:
        raise HTTPNotFound('No such order')
    return {'order': found}
