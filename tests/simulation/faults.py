"""What goes wrong, by seed: verbs that are refused, that happen and report failure, that take long; a full disk.

Owns the gate of one engine's life: when it is shut the engine is dead, and whatever its tasks still ask for while they
are taken down does not happen. Refuses to know: what any verb does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TypeVar

import trio

from engine.errors import Fault, PortError
from tests.simulation.disk import Disk

T = TypeVar("T")
SLOW_S = (0.001, 0.02, 0.3, 2.5, 12.0)


class Gate:
    """Whether the engine that holds these drivers is alive."""

    def __init__(self) -> None:
        self.shut = False


class Faults:
    """Draws of one simulation. slow, refuse, lie: how often, per verb; all of it ends with `heal`."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.on = False
        self.spared = False
        """For a while, although they are on: an engine that never starts answers nobody."""
        self.disk = Disk(random)
        self.slow = random.choice((0.0, 0.05, 0.3, 0.6))
        self.refuse = random.choice((0.0, 0.02, 0.1))
        self.lie = random.choice((0.0, 0.02, 0.1))
        self.told: list[str] = []

    def heal(self) -> None:
        self.on = False
        self.disk.heal()

    async def perform(
        self,
        gate: Gate,
        verb: str,
        effect: Callable[[], T],
        *,
        may_fail: bool = True,
        may_lie: bool = True,
        writes: bool = False,
        prompt: bool = False,
    ) -> T:
        """Do `effect` once, all of it in one step, at some moment, or not; and tell, or lie. may_lie: whether the
        port's contract leaves open what a failed verb has done. writes: a full disk refuses it. prompt: nothing comes
        between the effect and its answer (a descriptor that is given belongs to somebody)."""
        await self._pause()
        self._check(gate, verb)
        if may_fail and self._strikes(self.refuse):
            raise self._refusal(verb, "before")
        if writes and self.disk.full:
            self.told.append(f"{trio.current_time():.3f} {verb} finds the disk full")
            raise PortError(verb, "no space left on device", fault=Fault.DISK_FULL, errno=28, retriable=True)
        done = effect()
        if prompt:
            return done
        await self._pause()
        self._check(gate, verb)
        if may_fail and may_lie and self._strikes(self.lie):
            raise self._refusal(verb, "after")
        return done

    def _strikes(self, chance: float) -> bool:
        return self.on and not self.spared and self.random.random() < chance

    async def _pause(self) -> None:
        if self._strikes(self.slow):
            await trio.sleep(self.random.choice(SLOW_S) * self.random.random())
        else:
            await trio.lowlevel.checkpoint()

    def _refusal(self, verb: str, when: str) -> PortError:
        self.told.append(f"{trio.current_time():.3f} {verb} refused {when} its effect")
        return PortError(verb, f"simulated fault of {verb}", errno=5, retriable=self.random.random() < 0.5)

    @staticmethod
    def _check(gate: Gate, verb: str) -> None:
        if gate.shut:
            raise PortError(verb, "this engine is dead")


class SimulatedClock:
    """Wall time that follows trio's virtual clock."""

    BEGAN_NS = 1_700_000_000_000_000_000

    def now_ns(self) -> int:
        return self.BEGAN_NS + math.floor(trio.current_time() * 1e9)


class SeededEntropy:
    """The Entropy port over a seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def hex_id(self) -> str:
        while True:
            identifier = self._random.randbytes(32).hex()
            if not identifier[:12].isdecimal():
                return identifier

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def below(self, bound: int) -> int:
        return self._random.randrange(bound)
