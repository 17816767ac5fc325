"""Ctrl-C and SIGTERM that wait until a step is finished and a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["HeldSignals", "hold_signals"]


class HeldSignals:
    """A signal that arrived and waits, and the handlers that were there before.

    Attributes:
        received: the number of the signal that waits; None as long as none has arrived.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.earlier: dict[int, Any] = {}

    def note(self, number: int, frame: Any) -> None:
        """Handle a signal: the first one waits, a second one takes effect at once."""
        if self.received is not None:
            self.deliver()
        self.received = number

    def deliver(self) -> None:
        """Pass the signal to its earlier handler: Ctrl-C usually raises KeyboardInterrupt, SIGTERM ends the process.

        Without a signal (another process received it) this raises KeyboardInterrupt. If the handler returns, later
        signals are held again.
        """
        number, self.received = self.received, None
        self.release()
        if number is None:
            raise KeyboardInterrupt
        signal.raise_signal(number)
        self.hold()

    def hold(self) -> None:
        """Hold signals from now on, except those that are ignored, as Ctrl-C is for a script in the background."""
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
def hold_signals() -> Iterator[HeldSignals]:
    """Hold SIGINT and SIGTERM; does nothing outside of the main thread, which alone receives signals in Python."""
    signals = HeldSignals()
    if threading.current_thread() is threading.main_thread():
        signals.hold()
    try:
        yield signals
    finally:
        signals.release()
