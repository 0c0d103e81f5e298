"""What one request changed, as operations that fit on any later state.

Pure functions on dicts.  Saving a whole dict would undo what another request
saved meanwhile; operations (this key set, that key deleted, these messages
appended) are applied to the record as it is at the moment of the write.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

from pyramid_sqlasession.errors import name_of

FLASH = '_f_'
CSRF = '_csrft_'
#: Before the key of the user's id, the key of when that user logged in, in
#: seconds since the epoch.  Of each key its own: who logs in as a visitor has
#: not said the administrator's password again.
LOGIN = '_login_'

#: Reserved key of the stored data, for what no view sees: see ``Heads``.
HEADS = '_fh_'

#: How many messages were ever taken from the head of each flash queue: with
#: it two requests that popped the same message can tell it from an equal one
#: that was flashed later.  By ``FLOOR`` the number for all queues that have
#: none of their own.  And by ``CSRF`` the token that a renewal kept, for a
#: session in which nobody has asked for one yet.
Heads = Mapping[str, Any]

#: What stored data consist of: what a view sees, and the heads.
DataAndHeads = tuple[dict[str, Any], dict[str, Any]]

#: A number that none of the queues that are empty has gone beyond: they need
#: no numbers of their own, which would be kept for ever.
FLOOR = 'floor'

#: Whether the values of one dict are stored as others than those of another.
#: (``==`` would take ``1``, ``1.0`` and ``True`` for the same.)
Differ = Callable[[dict[str, Any], dict[str, Any]], bool]


@dataclass(frozen=True)
class FlashChange:
    """What happened to one flash queue."""

    #: Head counter up to which this request took messages.
    taken: int
    appended: tuple[Any, ...] = ()
    #: Those flashed with ``allow_duplicate=False``: they are in ``appended``,
    #: too, as long as nobody has taken them.
    once: tuple[Any, ...] = ()
    #: Whether the queue was taken away at some time; for people.
    popped: bool = False


# Not frozen: that makes three times as dear what each save does.
@dataclass(slots=True)
class Changes:
    """What one request changed in the data; nobody changes it."""

    assigned: Mapping[str, Any] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()
    flash: Mapping[str, FlashChange] = field(default_factory=dict)
    #: A CSRF token that counts only if there is none yet.
    csrf: str | None = None
    #: The same, but it is not stored among the data (renewal).
    kept_csrf: str | None = None
    #: The CSRF token of the record goes first (rotation).
    drop_csrf: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.assigned or self.deleted or self.flash
            or self.csrf is not None or self.kept_csrf is not None
            or self.drop_csrf
        )

    @property
    def is_of_data(self) -> bool:
        """Whether it is of what the application puts in, and not only of
        tokens.
        """
        return bool(
            self.assigned or self.deleted or self.flash
            or self.csrf is not None
        )

    @property
    def keys(self) -> list[str]:
        """The names of all keys that changed, sorted, for messages."""
        names = {*self.assigned, *self.deleted, *self.flash}
        if self.csrf is not None:
            names.add(CSRF)
        return sorted(map(name_of, names))


NO_CHANGES = Changes()


def split(stored: Mapping[str, Any]) -> DataAndHeads:
    """Return the data that a view sees, and the heads."""
    data = dict(stored)
    heads = data.pop(HEADS, None)
    if type(heads) is list and len(heads) == 2:
        # The application has a key of that name.
        heads, data[HEADS] = heads
    if type(heads) is not dict:
        return data, {}
    return data, {
        queue: count for queue, count in heads.items()
        if type(count) is (str if queue == CSRF else int)
    }


def join(data: Mapping[str, Any], heads: Heads) -> dict[str, Any]:
    """Return what is stored; the inverse of :func:`split`."""
    stored = dict(data)
    if HEADS in stored:
        stored[HEADS] = [dict(heads), stored[HEADS]]
    elif heads:
        stored[HEADS] = dict(heads)
    return stored


def find_changes(
    base: Mapping[str, Any],
    heads: Heads,
    current: Mapping[str, Any],
    *,
    touched: Collection[str],
    popped: frozenset[str] = frozenset(),
    once: Iterable[tuple[str, Any]] = (),
    derived_csrf: str | None = None,
    differ: Differ,
) -> Changes:
    """Return the operations that lead from *base* to *current*.

    :param touched: the keys that may have changed; no other key is looked at.
    :param popped: flash keys whose queue was taken away at some time.
    :param once: (flash key, message) of messages without duplicates.
    :param derived_csrf: the CSRF token that a request without one derives.
    """
    if not base and touched == current.keys():
        # All of a new session, unless a key may be one of the reserved ones.
        # All names at once: each first save pays for it.
        try:
            names = ''.join(touched)
        # Keys that are no str.
        except TypeError:
            names = FLASH
        if FLASH not in names and CSRF not in names:
            return Changes(current)
    assigned = {}
    deleted = set()
    flash = {}
    csrf = None
    # In the order of the dict: new keys are stored as they were added.
    keys = [key for key in current if key in touched]
    if len(keys) < len(touched):
        keys += [key for key in base if key in touched and key not in current]
    for key in keys:
        if isinstance(key, str) and key.startswith(FLASH) and (
            change := _flash_change(
                key, base, heads, current, key in popped, once, differ
            )
        ) is not None:
            if change.taken > _head(heads, key) or change.appended:
                flash[key] = change
        elif key not in current:
            deleted.add(key)
        elif key not in base or differ(
            {key: base[key]}, {key: current[key]}
        ):
            if key == CSRF and key not in base and (
                current[key] == derived_csrf
            ):
                csrf = derived_csrf
            else:
                assigned[key] = current[key]
    return Changes(assigned, frozenset(deleted), flash, csrf)


def _flash_change(
    key: str,
    base: Mapping[str, Any],
    heads: Heads,
    current: Mapping[str, Any],
    popped: bool,
    once: Iterable[tuple[str, Any]],
    differ: Differ,
) -> FlashChange | None:
    """Return the change of a queue, or None if it is none (not a list)."""
    before = base.get(key, [])
    after = current.get(key, [])
    if type(before) is not list or type(after) is not list:
        return None
    head = _head(heads, key)
    kept = len(before)
    if popped or differ({key: after[:kept]}, {key: before}):
        head += len(before)
        appended = after
    else:
        appended = after[kept:]
    return FlashChange(
        head, tuple(appended), tuple(m for k, m in once if k == key), popped
    )


def apply_changes(
    changes: Changes, data: Mapping[str, Any], heads: Heads
) -> DataAndHeads:
    """Return data and heads after *changes*."""
    data = dict(data)
    heads = dict(heads)
    if changes.drop_csrf:
        data.pop(CSRF, None)
        heads.pop(CSRF, None)
    for key in changes.deleted:
        data.pop(key, None)
    data.update(changes.assigned)
    if changes.csrf is not None:
        data.setdefault(CSRF, changes.csrf)
    if changes.kept_csrf is not None and CSRF not in data:
        heads.setdefault(CSRF, changes.kept_csrf)
    for key, change in changes.flash.items():
        _apply_flash(key, change, data, heads)
    if changes.flash:
        _forget_empty(data, heads)
    return data, heads


def _head(heads: Heads, key: str) -> int:
    """Return how many messages were ever taken from a queue, or more."""
    count: int = heads.get(key, heads.get(FLOOR, 0))
    return count


def _apply_flash(
    key: str, change: FlashChange, data: dict[str, Any], heads: dict[str, Any]
) -> None:
    queue = data.get(key, [])
    queue = list(queue) if type(queue) is list else []
    head = _head(heads, key)
    # What another request took already is not taken a second time: behind
    # it are messages that nobody has seen.
    take = min(max(change.taken - head, 0), len(queue))
    del queue[:take]
    if take:
        heads[key] = head + take
    for message in change.appended:
        if message in change.once and message in queue:
            continue
        queue.append(message)
    if queue:
        data[key] = queue
    else:
        data.pop(key, None)


def _forget_empty(data: dict[str, Any], heads: dict[str, Any]) -> None:
    """Have the floor stand for the numbers of all queues that are empty.

    No request has taken more from one than that: a late pop takes nothing
    that was flashed since.
    """
    empty = [
        key for key in heads if key.startswith(FLASH) and key not in data
    ]
    floor = heads.get(FLOOR, 0)
    highest = max([floor, *(heads.pop(key) for key in empty)])
    if highest == floor:
        return
    # A queue that has messages keeps its number: requests that pop them are
    # counting from there.  (A key that is no str is refused later.)
    for key in data:
        if isinstance(key, str) and key.startswith(FLASH):
            heads.setdefault(key, floor)
    heads[FLOOR] = highest


def conflicting_keys(
    changes: Changes,
    base: Mapping[str, Any],
    now: Mapping[str, Any],
    differ: Differ,
) -> list[str]:
    """Return the changed keys whose value is no longer that of *base*.

    Flash queues and derived CSRF tokens never conflict: they merge.
    """
    conflicts = []
    for key in {*changes.assigned, *changes.deleted}:
        if (key in base) != (key in now) or (
            key in base and differ({key: base[key]}, {key: now[key]})
        ):
            conflicts.append(key)
    # A serializer of the application may have keys that are no str.
    return sorted(conflicts, key=name_of)
