"""Every address of the shop."""

from pyramid.config import Configurator

# Narrow, so that what no database would take never gets to one.
SLUG = '{slug:[a-z-]{1,40}}'
NUMBER = r'{number:\d{1,9}}'


def includeme(config: Configurator) -> None:
    """Add the routes and the static files."""
    config.add_static_view('static', 'demo:static', cache_max_age=60)
    config.add_route('shelf', '/')
    config.add_route('tea', f'/teas/{SLUG}')
    config.add_route('cart', '/cart')
    config.add_route('cart_add', f'/cart/add/{SLUG}')
    config.add_route('cart_change', f'/cart/change/{SLUG}')
    config.add_route('checkout', '/checkout')
    config.add_route('orders', '/orders')
    config.add_route('order', f'/orders/{NUMBER}')
    config.add_route('login', '/login')
    config.add_route('logout', '/logout')
    config.add_route('signup', '/signup')
    config.add_route('session', '/session')
    config.add_route('session_expiry', '/session/expiry')
    config.add_route('devices', '/devices')
    config.add_route('device_logout', '/devices/logout')
    config.add_route('other_devices_logout', '/devices/logout-others')
