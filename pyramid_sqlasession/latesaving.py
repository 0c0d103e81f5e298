"""What no transaction has saved: from a response callback, an exception view,
an application without transactions; and the transaction that a view has left
open which failed.
"""

from __future__ import annotations

import contextlib
from typing import Any

from transaction.interfaces import NoTransaction

from pyramid_sqlasession.application import Application
from pyramid_sqlasession.cookie import Token
from pyramid_sqlasession.datamanager import SessionDataManager
from pyramid_sqlasession.errors import SessionError
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.plan import Plan
from pyramid_sqlasession.surroundings import is_ended_later
from pyramid_sqlasession.transaction import active_transaction
from pyramid_sqlasession.transaction import is_managed
from pyramid_sqlasession.transaction import runs_again


def save_now(binding: Binding) -> Token | None:
    """Save what is unsaved; return the token of the session.

    :raises SessionError: what was changed stays unsaved.
    """
    plan = binding.make_plan()
    if plan is not None:
        if is_given(binding):
            _save_given(binding, plan)
        elif _may_use_dbsession(binding):
            _save_beside(binding)
        else:
            _save_alone(binding, plan)
    return binding.base.token


def is_given(binding: Binding) -> bool:
    """Return whether the transaction outlives the response (T7)."""
    part = binding.participation
    return (
        part is not None
        and part.is_open
        and (
            binding.connections.has_dbsession
            # Whatever else is written waits for its locks.
            or part.manager.open_connection() is not None
        )
        and is_ended_later(binding.request)
    )


def final(binding: Binding, error: Exception) -> Exception:
    """Return *error* of :func:`save_now`, or one after which the request does
    not run again: with its data committed, it would leave two orders.
    """
    request = binding.request
    # Whether a transaction of it may have been committed.
    was_managed = binding.may_be_managed or is_managed(request)
    if not was_managed or not runs_again(request, error):
        return error
    found = SessionError(
        'the session was changed after the transaction of the request had '
        'ended, and by another request at the same time: this is lost. '
        'Change it in the view: then the request can run again'
    )
    found.__cause__ = error
    return found


def abort_what_is_left(
    application: Application, request: Any, binding: Binding | None
) -> None:
    """End the transaction of *request*, whose view has failed, if nobody has.

    An error in a before-commit hook leaves it open, with its locks: a write
    beside it would wait for the request itself.

    :param binding: of the request's session, if it was looked at.
    """
    left = active_transaction(request)
    if left is None or is_ended_later(request):
        return
    manager = SessionDataManager.found_in(left, application)
    # pyramid_tm notes the path of what it begins; a view that has committed
    # by hand goes on in another one.  Any other is the application's affair.
    if left.description or (manager is not None and manager.was_managed):
        if binding is not None:
            binding.leave()
        request.tm.abort()


def _save_given(binding: Binding, plan: Plan) -> None:
    """Save in the transaction that stays open."""
    connections = binding.connections

    def save(connection: Any) -> Any:
        return binding.save(connections.inside(connection), plan)

    outcome = connections.perform(save, writes=True)
    assert binding.participation is not None
    binding.participation.end_with(outcome)


def _save_alone(binding: Binding, plan: Plan) -> None:
    """Save in a transaction of its own."""
    binding.leave()
    binding.accept(
        binding.connections.alone(
            lambda connection: binding.save(connection, plan)
        )
    )


def _save_beside(binding: Binding) -> None:
    """Save in a further transaction of ``request.tm``."""
    binding.leave()
    transactions = binding.request.tm
    with contextlib.suppress(NoTransaction):
        # One whose COMMIT has failed is still there.
        transactions.abort()
    with transactions:
        # As something is unsaved, it is looked for at the commit.
        binding.join()


def _may_use_dbsession(binding: Binding) -> bool:
    """Return whether ``extend_default_fields`` may use ``request.dbsession``,
    which joins nothing but a transaction.
    """
    request = binding.request
    return (
        binding.extends
        and getattr(request, 'tm', None) is not None
        and active_transaction(request) is None
    )
