"""Dual logging (LOG-06): what goes to a server is kept in the format of `local` too, so that it can be read back."""

from __future__ import annotations

from .lines import ByLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .lines import Line
    from .local import Local
    from .remote import Remote


class Cached(ByLine):
    """The writer. The cache is written first: what `docker logs` shows does not wait for a server."""

    def __init__(self, remote: Remote, cache: Local) -> None:
        super().__init__()
        self._remote, self._cache = remote, cache

    @property
    def full(self) -> bool:
        return self._remote.full or self._cache.full

    def take(self, stream: str, lines: list[Line], now_ns: int) -> None:
        self._cache.take(stream, lines, now_ns)
        self._remote.take(stream, lines, now_ns)

    def hurry(self) -> None:
        self._remote.hurry()

    def leave(self, done: Callable[[], None]) -> None:
        self._cache.leave(lambda: None)
        self._remote.leave(done)
