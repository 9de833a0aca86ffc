"""Work in a child of its own, for what would hold up everybody: compressing a file, waiting for a name server.

The child has nothing but standard streams and a socket back: a copy of somebody's pipe in it would keep that pipe open.
"""

from __future__ import annotations

import os
import signal
import socket

from . import kernel, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .loop import Loop


def beside(loop: Loop, work: Callable[[], tuple[Any, tuple[int, ...]]], done: Callable[[Any, list[int]], None]) -> None:
    """Fork; `work` gives a value and descriptors, which `done` gets in the loop (None and none when the child died, or
    could not be made: at once)."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        done(None, [])
        return
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        done(None, [])
        return
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            kernel.close_all_but({0, 1, 2, theirs.fileno()})
            wire.send(theirs, *work())
        finally:
            os._exit(0)
    theirs.close()

    def ended(events: int) -> None:
        loop.unwatch(ours.fileno())
        try:
            answer = wire.receive(ours)
        except OSError:
            answer = None
        ours.close()
        os.waitpid(pid, 0)
        done(*(answer or (None, [])))

    loop.watch(ours.fileno(), ended)
