"""What is noted of each request."""

from dataclasses import dataclass
from dataclasses import field
from typing import Any


@dataclass
class Event:
    """One request: what was asked, when, and what was answered."""

    step: str
    operation: str
    #: Of the machine's monotonic clock, the same in all processes.
    begun: float
    ended: float = 0.0
    status: int = 0
    error: str | None = None
    #: The token that was sent, and the one that came back; '' removes.
    sent: str | None = None
    received: str | None = None
    #: The session's id when the view looked at it, None if it was new.
    id: str | None = None
    #: What the view saw in it.
    seen: dict[str, Any] = field(default_factory=dict)
    #: The value of the operation: the count, the messages popped, ...
    result: Any = None
    #: Ids of sessions that this request made.
    created: list[str] = field(default_factory=list)
    #: Ids of sessions that this request ended.
    ended_ids: list[str] = field(default_factory=list)
    #: Reasons of SessionWriteDropped.
    dropped: list[str] = field(default_factory=list)
    #: How often pyramid_retry ran the view.
    runs: int = 1
    #: The key that was deleted, or the id that was revoked.
    target: str | None = None

    @property
    def was_done(self):
        """Whether what the request wrote was acknowledged."""
        return self.status == 200 and not self.dropped

    @property
    def written(self):
        """The id of the session that holds what it wrote, or None."""
        if not self.was_done:
            return None
        return self.created[-1] if self.created else self.id

    @property
    def has_new_token(self):
        """Whether the browser got another token than it sent."""
        return bool(self.received) and self.received != self.sent

    def is_before(self, other):
        """Whether it had ended when *other* began."""
        return self.ended < other.begun
