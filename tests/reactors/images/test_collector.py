"""What looks for blobs and layers that nothing needs goes on looking, whatever the world refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio

from engine.errors import Fault, PortError
from engine.reactors.images.holds import Holds
from engine.reactors.images.removal import LEASES_LOOKED_AT_S, Collector


class Refusing(Collector):
    """Each of its verbs is refused the first time."""

    def __init__(self, holds: Holds) -> None:
        hands = SimpleNamespace(clock=SimpleNamespace(now_ns=lambda: 0))
        super().__init__(cast("Any", hands), cast("Any", None), holds, cast("Any", None))
        self.done: list[str] = []
        self._refused: set[str] = set()

    async def expire(self, now_ns: int) -> None:
        self._once("expire")

    async def collect(self, occasion: str) -> int:
        self._once("collect")
        return 0

    def _once(self, verb: str) -> None:
        if verb not in self._refused:
            self._refused.add(verb)
            raise PortError(verb, "no space left on device", fault=Fault.DISK_FULL, retriable=True)
        self.done.append(verb)


async def test_what_could_not_be_discarded_is_looked_at_again(autojump_clock: object) -> None:
    collector = Refusing(Holds())
    with trio.move_on_after(1.5 * LEASES_LOOKED_AT_S):
        await collector.run()
    assert sorted(set(collector.done)) == ["collect", "expire"]
    assert collector.done.count("collect") == 1
