"""SIGTERM as a request: training saves, the process exits with a code that requeues.

Nothing listens unless it is told to: a script enters a `Preemption`, and hands it on as
the `stop` of what it runs.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

from vnets.train import Preempted

# EX_TEMPFAIL of sysexits.h: called again, it goes on. Give it to a scheduler that
# requeues by exit code (SLURM: RequeueExit=75 in slurm.conf).
REQUEUE = 75


class Preemption:
    """Whether a signal has asked to stop; listens to it inside of `with`.

    While `deferred`, a signal is only remembered, for `train.fit` to ask about; at any
    other time there is nothing to save and it raises `Preempted` where it arrives. The
    same signal again ends the process at once.

    Attributes:
      received: the signals that came, in order.
    """

    def __init__(self, *signals: signal.Signals):
        """Names what to listen to, such as SIGTERM; with nothing it is never asked."""
        self.received: list[signal.Signals] = []
        self._signals = signals
        self._previous: dict[signal.Signals, object] = {}
        self._deferred = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        return bool(self.received)

    def __enter__(self) -> "Preemption":
        """Listens; only the main thread may, as Python has it."""
        for one in self._signals:
            self._previous[one] = signal.signal(one, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for one, handler in self._previous.items():
            signal.signal(one, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Leaves signals to who asks by calling; raises at the end if nobody did.

        Raises:
          Preempted: a signal came meanwhile, and the block ended as if none had.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self():
            raise Preempted(self._message())

    def _receive(self, number: int, _) -> None:
        self.received.append(signal.Signals(number))
        signal.signal(number, signal.SIG_DFL)
        if not self._deferred:
            raise Preempted(self._message())

    def _message(self) -> str:
        names = ", ".join(one.name for one in self.received)
        return f"stopped by {names} (process {os.getpid()}); what was saved is kept"
