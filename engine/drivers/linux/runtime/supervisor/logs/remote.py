"""A writer whose entries go to a server: lines out of chunks, messages out of lines, an outlet behind them."""

from __future__ import annotations

from .lines import ByLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .lines import Line
    from .outlet import Outlet

    Messages = Callable[[str, list[Line], int], list[bytes]]


class Remote(ByLine):
    """messages(stream, lines, now_ns): what each line is for this server."""

    def __init__(self, messages: Messages, outlet: Outlet) -> None:
        super().__init__()
        self._messages, self._outlet = messages, outlet

    @property
    def full(self) -> bool:
        return self._outlet.full

    def take(self, stream: str, lines: list[Line], now_ns: int) -> None:
        messages = self._messages(stream, lines, now_ns)
        if messages:
            self._outlet.give(messages)

    def hurry(self) -> None:
        self._outlet.hurry()

    def leave(self, done: Callable[[], None]) -> None:
        self._outlet.leave(done)
