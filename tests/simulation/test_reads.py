"""WIN-10: reads come from projections: whatever a driver takes, they are answered in no time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine.aggregates.container.lifecycle import Status
from tests.simulation.test_mended import World, play

READS = ("/containers/json?all=1", "/containers/web/json", "/networks", "/volumes", "/images/json", "/info")


@pytest.mark.parametrize("verb", ["open sandbox", "start", "signal", "prepare rootfs"])
def test_reads_do_not_wait_for_a_driver_that_does_not_answer(tmp_path: Path, verb: str) -> None:
    """A minute of a clock on which nothing but waiting takes time."""

    async def story(world: World) -> None:
        await world.create("web")
        ends = verb == "signal"
        if ends:
            await world.ask("POST", "/containers/web/start", status=204)
        go_on = world.hold(verb)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, "POST", f"/containers/web/{'kill' if ends else 'start'}")
            for _ in range(60):
                await trio.sleep(1)
                began = trio.current_time()
                for path in READS:
                    await world.ask("GET", path, status=200)
                assert trio.current_time() == began
            go_on.set()
        await world.at_rest()
        assert world.state("web").status is (Status.EXITED if ends else Status.RUNNING)

    play(tmp_path, story)
