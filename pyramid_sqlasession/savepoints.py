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
from pyramid_sqlasession.lifecycle import binding_of
from pyramid_sqlasession.participation import Participation
from pyramid_sqlasession.participation import RELEASED

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
    if part := _part_with(dbsession):
        part.savepoints[transaction] = part.mark()
    elif (request := get_current_request()) is not None:
        # The session may join within it.
        _unmarked[transaction] = id(request.__dict__.get('exception'))


def _released(dbsession: Any) -> None:
    transaction = dbsession.get_nested_transaction()
    if transaction is None:
        # The whole transaction is committed.
        committed(dbsession)
    elif part := _part_with(dbsession):
        part.savepoints[transaction] = RELEASED


def _ended(dbsession: Any, transaction: Any) -> None:
    # after_soft_rollback would be too little: a flush that fails rolls its
    # SAVEPOINT back on its own, and the block around it is only closed.
    if not transaction.nested:
        return
    error = _unmarked.pop(transaction, None)
    if part := _part_with(dbsession):
        # Those of a view that has failed end with its transaction.
        is_current = error == id(part.exception)
        mark = part.savepoints.pop(
            transaction, None if is_current else RELEASED
        )
        if mark is not RELEASED:
            part.return_to(mark)


def _part_with(dbsession: Any) -> Participation | None:
    """Return the part that the current request's session takes in the
    transaction of *dbsession*.
    """
    request = get_current_request()
    binding = None if request is None else binding_of(request)
    part = None if binding is None else binding.participation
    if part is None or part.is_ending or part.dbsession is not dbsession:
        return None
    return part
