"""The epoll loop of the supervisor: descriptors and what to call when they are ready."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, READ)

    def unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def want_write(self, fd: int, wanted: bool) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, READ | WRITE if wanted else READ)

    def turn(self, timeout_s: float) -> None:
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)  # an earlier handler of this turn may have ended this one
            if handler is not None:
                handler(events)
