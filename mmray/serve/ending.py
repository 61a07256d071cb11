"""How `mmray serve` ends: by a signal and within seconds, whatever Ray does."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What was begun has so long to be finished; who sent the signal will send SIGKILL a little later.
_WITHIN_S = 4.8


class Ending:
    """While inside, the first signal that ends the server raises KeyboardInterrupt in the main thread.

    A process that has not ended in time then ends itself; all that it started ends with it.
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
        """Once more after `ray.init`, which installs a handler of its own."""
        for number in _NUMBERS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (Python's signature)
        if not self._signalled:
            self._signalled = True
            self.within(_WITHIN_S)
            raise KeyboardInterrupt

    def within(self, seconds: float) -> None:
        """End the process then, if it is still there."""
        timer = threading.Timer(seconds, self._force)
        timer.daemon = True
        timer.start()

    def _force(self) -> None:
        if self.code:
            os.write(2, b"error: interrupted before the server was ready\n")
        os._exit(self.code)
