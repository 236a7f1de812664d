"""Signals: the first ends a program in good order, a second at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, the polite kill that SLURM pre-empts with, and what its option --signal is mostly set to
# and the end of a slice of time
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)


class Interrupted(BaseException):
    """A signal has come. No ``Exception``, so that nobody takes it for a failure to recover from."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """What has come, and whether it may interrupt at once.

    While ``deferred`` a signal is only noted: a training step is not torn apart.
    """

    received: int | None = None
    deferred = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Within it an ending signal raises Interrupted, and a second one ends the process without ceremony."""
        before = {number: signal.getsignal(number) for number in ENDING}
        self.received, self.deferred = None, False
        self.listen()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it a signal is only noted; it interrupts at the end."""
        before, self.deferred = self.received, True
        try:
            yield
        finally:
            self.deferred = False
        if before is None and self.received is not None:
            raise Interrupted(self.received)

    @staticmethod
    def after(seconds: float) -> None:
        """An ending signal, SIGALRM, comes after that time."""
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def listen(self) -> None:
        """Takes the signals over from whoever handles them now, unless one has come."""
        if self.received is None:
            for number in ENDING:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for ending in ENDING:
            signal.signal(ending, signal.SIG_DFL)
        self.received = number
        if not self.deferred:
            raise Interrupted(number)


signals = Signals()  # a process has one set of them
