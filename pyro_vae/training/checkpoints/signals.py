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

        Without a signal (another process got it) this raises KeyboardInterrupt. If the handler returns, later signals
        are held again.
        """
        number, self.received = self.received, None
        self.release()
        if number is None:
            raise KeyboardInterrupt
        signal.raise_signal(number)
        self.hold()

    def hold(self) -> None:
        """Let signals wait, those apart that are ignored, as Ctrl-C is in a script's background."""
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler != signal.SIG_IGN:
                self.earlier[number] = handler
                signal.signal(number, self.note)

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
        here.hold()
    try:
        yield here
    finally:
        here.release()
