"""A forked process."""

import os


class Child:
    """A child of this process, which ends with *work*."""

    def __init__(self, work):
        self._number = os.fork()
        if not self._number:
            # Whatever happens, no second pytest goes on.
            code = 1
            try:
                code = 0 if work() else 1
            finally:
                os._exit(code)

    def is_fine(self):
        """Wait for its end; return whether ``work()`` was true."""
        _, status = os.waitpid(self._number, 0)
        return os.waitstatus_to_exitcode(status) == 0
