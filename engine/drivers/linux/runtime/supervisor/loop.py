"""The epoll loop of the supervisor and of the copier: what to call when descriptors are ready, and at deadlines.

A handler that fails is told on stderr (supervisor.log), and its failure stays its own: every container's parent must
not end of it.
"""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP
FAILURES_MAX, REST_S = 10, 1.0
"""A descriptor whose handler has failed so many times in a row is left alone for so long, after each further time: it
may be ready for ever, and what the handler lacks (descriptors, memory) may come back."""


class Watched:
    __slots__ = ("events", "failures", "handler", "resting")

    def __init__(self, handler: Callable[[int], None], events: int) -> None:
        self.handler, self.events = handler, events
        self.failures = 0
        self.resting = False


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READ) -> None:
        self._watched[fd] = Watched(handler, events)
        self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        watched = self._watched.pop(fd, None)
        if watched is not None and not watched.resting:
            self._epoll.unregister(fd)

    def want(self, fd: int, events: int) -> None:
        watched = self._watched.get(fd)
        if watched is not None:
            watched.events = events
            if not watched.resting:
                self._epoll.modify(fd, events)

    def want_write(self, fd: int, wanted: bool) -> None:
        self.want(fd, READ | WRITE if wanted else READ)

    def after(self, seconds: float, key: object, handler: Callable[[], None]) -> None:
        """Call once, later. A key has one deadline: the newest."""
        self._due[key] = time.monotonic() + seconds, handler

    def forget(self, key: object) -> None:
        self._due.pop(key, None)

    def turn(self, timeout_s: float) -> None:
        """Wait for the first thing to happen, at most so long (-1: for ever), and call whoever waits for it."""
        if self._due:
            left = max(0.0, min(when for when, _ in self._due.values()) - time.monotonic())
            timeout_s = left if timeout_s < 0 else min(timeout_s, left)
        for fd, watched, events in [(fd, self._watched.get(fd), events) for fd, events in self._epoll.poll(timeout_s)]:
            # An earlier handler of this turn may have ended this one, and its descriptor's number be another's by now.
            if watched is not None and self._watched.get(fd) is watched:
                self._call(fd, watched, events)
        if self._due:
            now = time.monotonic()
            for key, (when, call) in list(self._due.items()):
                if when <= now and self._due.get(key) == (when, call):
                    del self._due[key]
                    try:
                        call()
                    except Exception:
                        _tell()

    def _call(self, fd: int, watched: Watched, events: int) -> None:
        try:
            watched.handler(events)
        except Exception:
            watched.failures += 1
            if watched.failures <= FAILURES_MAX:
                _tell()
            if watched.failures >= FAILURES_MAX and self._watched.get(fd) is watched:
                self._rest(fd, watched)
        else:
            watched.failures = 0

    def _rest(self, fd: int, watched: Watched) -> None:
        def wake() -> None:
            if self._watched.get(fd) is watched:
                watched.resting = False
                self._epoll.register(fd, watched.events)

        self._epoll.unregister(fd)
        watched.resting = True
        self.after(REST_S, watched, wake)


def _tell() -> None:
    sys.excepthook(*sys.exc_info())
