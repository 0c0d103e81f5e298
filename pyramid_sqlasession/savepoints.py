"""Has sessions follow ``dbsession.begin_nested()`` (T9).

``request.tm.savepoint()`` needs nothing of this: it asks the data manager.
"""

from __future__ import annotations

from typing import Any

from pyramid.threadlocal import get_current_request
from sqlalchemy import event
from sqlalchemy.orm import Session

from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.lifecycle import RELEASED


def follow_savepoints() -> None:
    """Listen to the savepoints of all SQLAlchemy sessions of the process.

    Once, as registering with each request's own session would cost more
    than all else that a session does.
    """
    if event.contains(Session, 'after_transaction_create', _begun):
        return
    event.listen(Session, 'after_transaction_create', _begun)
    event.listen(Session, 'after_commit', _released)
    event.listen(Session, 'after_transaction_end', _ended)


def _begun(dbsession: Any, transaction: Any) -> None:
    if transaction.nested and (binding := _binding_with(dbsession)):
        binding.savepoints[transaction] = binding.mark()


def _released(dbsession: Any) -> None:
    # Also told of the commit of the whole transaction, which has no mark.
    transaction = dbsession.get_nested_transaction()
    if transaction is not None and (binding := _binding_with(dbsession)):
        binding.savepoints[transaction] = RELEASED


def _ended(dbsession: Any, transaction: Any) -> None:
    # after_soft_rollback would be too little: a flush that fails rolls its
    # SAVEPOINT back on its own, and the block around it is only closed.
    if not transaction.nested:
        return
    if binding := _binding_with(dbsession):
        mark = binding.savepoints.pop(
            transaction, RELEASED if binding.in_exception_view else None
        )
        if mark is not RELEASED:
            binding.return_to(mark)


def _binding_with(dbsession: Any) -> Binding | None:
    request = get_current_request()
    binding = None if request is None else binding_of(request)
    if binding is None or not binding.is_joined_with(dbsession):
        return None
    return binding
