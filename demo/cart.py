"""The cart: one key of the session, changed in place."""

from collections.abc import Iterator
from datetime import datetime
from datetime import UTC
from typing import NamedTuple

from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import select

from .models import Tea

KEY = 'cart'
MOST_OF_ONE = 20


class CartLine(NamedTuple):
    """A tea in the cart."""

    tea: Tea
    quantity: int
    added: datetime

    @property
    def cents(self) -> int:
        """Return what this line costs."""
        return self.tea.cents * self.quantity


class Cart:
    """The session's cart, by a tea's slug: ``{'quantity': …, 'added': …}``.

    Nothing here says ``session.changed()``: a nested change is found when
    the session is saved. Looking at an empty cart must not fill it, or every
    passer-by would leave a row behind.
    """

    def __init__(self, request: Request) -> None:
        self.session = request.session
        self.request = request

    def __len__(self) -> int:
        items = self.session.get(KEY, {})
        return sum(item['quantity'] for item in items.values())

    def __contains__(self, slug: str) -> bool:
        return slug in self.session.get(KEY, {})

    def add(self, slug: str, quantity: int) -> None:
        """Put in more of a tea."""
        items = self.session.setdefault(KEY, {})
        item = items.setdefault(
            slug, {'quantity': 0, 'added': datetime.now(UTC)}
        )
        item['quantity'] = min(item['quantity'] + quantity, MOST_OF_ONE)

    def change(self, slug: str, quantity: int) -> None:
        """Have this many of a tea that is in the cart; 0 takes it out."""
        if quantity < 1:
            self.remove(slug)
        else:
            item = self.session[KEY][slug]
            item['quantity'] = min(quantity, MOST_OF_ONE)

    def remove(self, slug: str) -> None:
        """Take a tea out."""
        del self.session[KEY][slug]

    def clear(self) -> None:
        """Take everything out."""
        self.session.pop(KEY, None)

    def lines(self) -> Iterator[CartLine]:
        """Yield what is in the cart, in the order it was put in.

        A tea that the shop has given up since is passed over.
        """
        items = self.session.get(KEY, {})
        if not items:
            return
        wanted = select(Tea).where(Tea.slug.in_(items))
        teas = {
            tea.slug: tea for tea in self.request.dbsession.scalars(wanted)
        }
        for slug, item in items.items():
            if slug in teas:
                yield CartLine(teas[slug], item['quantity'], item['added'])


def includeme(config: Configurator) -> None:
    """Register ``request.cart``."""
    config.add_request_method(Cart, 'cart', property=True)
