"""Has sessions follow ``dbsession.begin_nested()`` (T9).

``request.tm.savepoint()`` needs nothing of this: it asks the data manager.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from pyramid.threadlocal import get_current_request
from sqlalchemy import event
from sqlalchemy.orm import Session

from pyramid_sqlasession.datamanager import committed
from pyramid_sqlasession.lifecycle import Binding
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.lifecycle import RELEASED

#: Of the savepoints that were made before the session joined, which error the
#: view had raised by then: its address, as an error holds what has failed.
_unmarked: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def follow_savepoints() -> None:
    """Listen to the savepoints of all SQLAlchemy sessions of the process.

    Once, as registering with each request's own session would cost more
    than all else that a session does.
    """
    if event.contains(Session, 'after_transaction_create', _begun):
        return
    event.listen(Session, 'after_transaction_create', _begun)
    # Before the application's own, which may fail.
    event.listen(Session, 'after_commit', _released, insert=True)
    event.listen(Session, 'after_transaction_end', _ended)


def _begun(dbsession: Any, transaction: Any) -> None:
    if not transaction.nested:
        return
    if binding := _binding_with(dbsession):
        binding.savepoints[transaction] = binding.mark()
    elif (request := get_current_request()) is not None:
        # The session may join within it.
        _unmarked[transaction] = id(request.__dict__.get('exception'))


def _released(dbsession: Any) -> None:
    transaction = dbsession.get_nested_transaction()
    if transaction is None:
        # The whole transaction is committed.
        committed(dbsession)
    elif binding := _binding_with(dbsession):
        binding.savepoints[transaction] = RELEASED


def _ended(dbsession: Any, transaction: Any) -> None:
    # after_soft_rollback would be too little: a flush that fails rolls its
    # SAVEPOINT back on its own, and the block around it is only closed.
    if not transaction.nested:
        return
    error = _unmarked.pop(transaction, None)
    if binding := _binding_with(dbsession):
        # Those of a view that has failed end with its transaction.
        is_current = error == id(binding.exception)
        mark = binding.savepoints.pop(
            transaction, None if is_current else RELEASED
        )
        if mark is not RELEASED:
            binding.return_to(mark)


def _binding_with(dbsession: Any) -> Binding | None:
    request = get_current_request()
    binding = None if request is None else binding_of(request)
    if binding is None or not binding.is_joined_with(dbsession):
        return None
    return binding
