"""What goes wrong in a shop without being a fault of the shop."""


class ShopError(Exception):
    """A request that must leave no trace but a word to the visitor.

    Raised, not returned: that is what rolls the transaction back.

    :param message: what the visitor is told.
    :param route: the name of the route to go on at.
    """

    def __init__(self, message: str, route: str) -> None:
        super().__init__(message)
        self.message = message
        self.route = route


class PaymentError(ShopError):
    """The bank said no, after the order had been written."""


class NameTaken(ShopError):
    """Two people signed up with one name, and the other was faster."""
