"""The watchdog of simulations, over tasks that hang as engines have hung."""

from __future__ import annotations

import trio
import trio.testing

from tests.simulation.watchdog import free_the_stuck

LIMIT_S = 1_000.0


def run(*stuck: str, shields: int = 2, ends_after_s: float = 1.0) -> tuple[list[str], float]:
    """What is told of a run with tasks that wait for ever behind shields and one that ends; and when it ended."""
    told: list[str] = []

    async def wait(shields: int) -> None:
        if shields:
            with trio.CancelScope(shield=True):
                await wait(shields - 1)
        await trio.sleep_forever()

    async def parent(name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, shields, name=name)

    async def main() -> float:
        async with trio.open_nursery() as everything:
            everything.start_soon(free_the_stuck, everything.cancel_scope, LIMIT_S, told.append, name="watchdog")
            async with trio.open_nursery() as work:
                work.start_soon(trio.sleep, ends_after_s, name="ends")
                for name in stuck:
                    work.start_soon(parent, name, name=f"parent of {name}")
            everything.cancel_scope.cancel()
        return trio.current_time()

    return told, trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_ends_in_time_is_not_told() -> None:
    assert run(ends_after_s=LIMIT_S - 1) == ([], LIMIT_S - 1)


def test_what_waits_for_ever_behind_shields_is_named_and_ends() -> None:
    """Those that wait, and neither their parents nor who has ended."""
    told, ended = run("an exit", "a start")
    assert len(told) == 1
    assert "'a start'" in told[0]
    assert "'an exit'" in told[0]
    for nobody in ("parent", "ends", "watchdog"):
        assert nobody not in told[0]
    assert ended == LIMIT_S


def test_what_waits_without_a_shield_is_named_too() -> None:
    told, ended = run("a client", shields=0)
    assert "'a client'" in told[0]
    assert ended == LIMIT_S
