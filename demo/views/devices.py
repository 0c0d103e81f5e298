"""Where an account is logged in, and how to end it there."""

from typing import Any

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from pyramid.security import forget
from pyramid.view import view_config


@view_config(
    route_name='devices',
    request_method='GET',
    permission='account',
    http_cache=0,
    renderer='demo:templates/devices.jinja2',
)
def devices(request: Request) -> dict[str, Any]:
    """List the sessions that are logged in to this account."""
    found = request.session_store.find(user_id=request.authenticated_userid)
    this_id = request.session.id
    return {
        # This one first; the store has sorted the others, newest first.
        'devices': sorted(found, key=lambda record: record.id != this_id),
        'this_id': this_id,
    }


@view_config(
    route_name='device_logout', request_method='POST', permission='account'
)
def log_out_one(request: Request) -> HTTPSeeOther:
    """Log out one device, if it is one of this account's.

    The id in the form is not a secret, so owning the record is what counts:
    somebody else's is answered like one that never was.
    """
    record = request.session_store.get(request.POST.get('id', ''))
    if record is None or record.user_id != request.authenticated_userid:
        request.session.flash('No such device is logged in.', 'notice')
    elif record.id == request.session.id:
        headers = forget(request)
        request.session.flash('You are logged out here.', 'success')
        return HTTPSeeOther(request.route_path('shelf'), headers=headers)
    else:
        request.session_store.revoke(record.id)
        request.session.flash('That device is logged out.', 'success')
    return HTTPSeeOther(request.route_path('devices'))


@view_config(
    route_name='other_devices_logout',
    request_method='POST',
    permission='account',
)
def log_out_others(request: Request) -> HTTPSeeOther:
    """Log out every device but this one."""
    count = request.session_store.revoke_where(
        user_id=request.authenticated_userid, except_id=request.session.id
    )
    if count == 1:
        said = 'One other device is logged out.'
    elif count:
        said = f'{count} other devices are logged out.'
    else:
        said = 'You were logged in nowhere else.'
    request.session.flash(said, 'success')
    return HTTPSeeOther(request.route_path('devices'))
