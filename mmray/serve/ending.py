"""How `mmray serve` stops: by a signal and within seconds, even if Ray hangs."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Time to finish open requests; the sender of the signal will send SIGKILL a little later.
_WITHIN_S = 4.8


class Ending:
    """Inside the context, the first stop signal raises KeyboardInterrupt in the main thread.

    A process that has not ended in time ends itself, and with it everything that it started.
    """

    def __init__(self) -> None:
        #: Exit code if it has to end itself.
        self.code = 130
        self._signalled = False

    def __enter__(self) -> Ending:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)  # all is done but to say so

    def listen(self) -> None:
        """Call it again after `ray.init`, which installs its own handler."""
        for number in _NUMBERS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (Python's signature)
        if not self._signalled:
            self._signalled = True
            self.within(_WITHIN_S)
            raise KeyboardInterrupt

    def within(self, seconds: float) -> None:
        """End the process at that time if it still runs."""
        timer = threading.Timer(seconds, self._force)
        timer.daemon = True
        timer.start()

    def _force(self) -> None:
        if self.code:
            os.write(2, b"error: interrupted before the server was ready\n")
        os._exit(self.code)
