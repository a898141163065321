"""How many logins at a time go through to one SSH server: as many as it takes, which it tells by turning some away."""

from __future__ import annotations

import threading

__all__ = ["LoginGate"]

_GOOD_BEFORE_MORE = 20  # logins in a row before one more at a time is tried


class LoginGate:
    """The turns of one server; shared by all threads of a gateway."""

    def __init__(self, most: int) -> None:
        """Start with as many as ever.

        Args:
            most: logins at a time, at least 1.
        """
        self._most = most
        self._limit = most
        self._inside = 0
        self._good = 0
        self._changed = threading.Condition()

    def enter(self, seconds: float) -> bool:
        """Wait for a turn so long, and say whether it came."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._inside < self._limit, timeout=seconds):
                return False
            self._inside += 1
            return True

    def leave(self, *, turned_away: bool) -> None:
        """End a turn; a server that turned it away gets one less at a time than were there."""
        with self._changed:
            if turned_away:
                self._limit, self._good = max(1, self._inside - 1), 0
            else:
                self._good += 1
                if self._good >= _GOOD_BEFORE_MORE:
                    self._limit, self._good = min(self._most, self._limit + 1), 0
            self._inside -= 1
            self._changed.notify_all()
