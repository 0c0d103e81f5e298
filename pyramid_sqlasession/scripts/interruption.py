"""Ctrl-C between two steps of a long run, and not within one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import signal
import threading
from types import FrameType


@contextmanager
def held_back() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done; a second one does not wait.

    Within a COMMIT nobody could say what was done and what was not.

    :raises KeyboardInterrupt: after the block.
    """
    if not _is_python_asked():
        yield
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _is_python_asked() -> bool:
    """Return whether Ctrl-C is a KeyboardInterrupt of this thread.

    nohup has it ignored, and only the main thread hears of signals.
    """
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
