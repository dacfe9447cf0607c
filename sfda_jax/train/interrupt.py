"""SIGTERM and Ctrl-C as a question the loop asks between two steps."""

import contextlib
import signal
from collections.abc import Callable, Iterator


class Interrupted(Exception):
    """The run was told to stop and has saved itself.

    Attributes:
        signal_number: which signal; the exit status is 128 + it, as shells expect.
    """

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yields a function: 0 while the run may go on, else the signal received."""
    received = []

    def remember(number, frame):
        if received:  # asked twice: the user means it
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)

    previous = {
        number: signal.signal(number, remember)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
