"""Ctrl-C and SIGTERM that wait until a step is done and a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Held", "held"]


class Held:
    """The signal that came, and whose it was.

    Attributes:
        received: its number; None as long as none came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.earlier: dict[int, Any] = {}

    def note(self, number: int, frame: Any) -> None:
        """The handler: the first signal waits; a second one does not."""
        if self.received is not None:
            self.deliver()
        self.received = number

    def deliver(self) -> None:
        """Give the signal to its earlier handler: as a rule Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process.

        Without a signal (another process got it) this raises KeyboardInterrupt.
        """
        self.release()
        if self.received is None:
            raise KeyboardInterrupt
        number, self.received = self.received, None
        signal.raise_signal(number)

    def release(self) -> None:
        """Set the earlier handlers back."""
        while self.earlier:
            number, handler = self.earlier.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def held(wanted: bool = True) -> Iterator[Held]:
    """Hold SIGINT and SIGTERM back; outside of the main thread, which Python gives no signals, nothing is done."""
    here = Held()
    if wanted and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler != signal.SIG_IGN:  # as of Ctrl-C in a script's background
                here.earlier[number] = handler
                signal.signal(number, here.note)
    try:
        yield here
    finally:
        here.release()
