"""How far a long run has come."""

from __future__ import annotations

import sys


class Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int | None) -> None:
        #: None: nothing is shown.
        self._total = total
        self._stream = sys.stderr

    @staticmethod
    def is_wanted() -> bool:
        """Return whether somebody can see it."""
        return sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Show that *done* of the total are done."""
        if self._total:
            part = min(1.0, done / self._total)
            bar = f'{"#" * round(part * 30):<30}'
            self._stream.write(
                f'\r[{bar}] {part:4.0%}  {done:,} of {self._total:,}'
            )
            self._stream.flush()

    def clear(self) -> None:
        """Take the bar away."""
        if self._total:
            self._stream.write(f'\r{" " * 78}\r')
            self._stream.flush()
