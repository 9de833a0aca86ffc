"""The epoll loop of the supervisor and of the copier: what to call when descriptors are ready, and at deadlines."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP
FAILURES_MAX = 10
"""A descriptor whose handler has failed so many times in a row is watched no longer: it would be ready for ever."""


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._failures: dict[int, int] = {}

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READ) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._failures.pop(fd, None)
            self._epoll.unregister(fd)

    def want(self, fd: int, events: int) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, events)

    def want_write(self, fd: int, wanted: bool) -> None:
        self.want(fd, READ | WRITE if wanted else READ)

    def after(self, seconds: float, key: object, handler: Callable[[], None]) -> None:
        """Call once, later. A key has one deadline: the newest."""
        self._due[key] = time.monotonic() + seconds, handler

    def forget(self, key: object) -> None:
        self._due.pop(key, None)

    def turn(self, timeout_s: float) -> None:
        """Wait for the first thing to happen, at most so long (-1: for ever), and call whoever waits for it. A failure
        is told on stderr and stays that of one handler: every container's parent must not end of it."""
        if self._due:
            left = max(0.0, min(when for when, _ in self._due.values()) - time.monotonic())
            timeout_s = left if timeout_s < 0 else min(timeout_s, left)
        for fd, handler, events in [(fd, self._handlers.get(fd), events) for fd, events in self._epoll.poll(timeout_s)]:
            # An earlier handler of this turn may have ended this one, and its descriptor's number be another's by now.
            if handler is not None and self._handlers.get(fd) is handler:
                self._call(fd, handler, events)
        if self._due:
            now = time.monotonic()
            for key, (when, call) in list(self._due.items()):
                if when <= now and self._due.get(key) == (when, call):
                    del self._due[key]
                    _fails(call)

    def _call(self, fd: int, handler: Callable[[int], None], events: int) -> None:
        if not _fails(handler, events):
            self._failures.pop(fd, None)
        elif self._handlers.get(fd) is handler:
            self._failures[fd] = self._failures.get(fd, 0) + 1
            if self._failures[fd] >= FAILURES_MAX:
                self.unwatch(fd)


def _fails(call: Callable[..., None], *arguments: int) -> bool:
    try:
        call(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return True
    return False
