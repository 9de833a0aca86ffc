"""What simulations found, told again one by one: small, and true whatever the seeds become."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine.aggregates.container.lifecycle import Status
from engine.errors import PortError
from tests.simulation.checkers import settled
from tests.simulation.faults import Faults, SimulatedClock
from tests.simulation.lives import IMAGE, Answer, Cut, Lives
from tests.simulation.machine import Behaviour, Machine
from tests.simulation.simulation import MEMORY, determined


class World:
    """One engine over one machine, with no faults but those a test makes."""

    def __init__(self, lives: Lives, machine: Machine) -> None:
        self.lives, self.machine = lives, machine
        self.clock = SimulatedClock()

    async def ask(self, method: str, path: str, body: Any = None, *, status: int = 0) -> Answer:
        answer = await self.lives.ask(method, path, body)
        assert not status or answer.status == status, answer
        return answer

    async def create(self, name: str, behaviour: Behaviour = Behaviour(), **host: Any) -> None:  # noqa: B008 - frozen
        body = {"Image": IMAGE, "Cmd": behaviour.words, "ExposedPorts": {"80/tcp": {}}, "HostConfig": host}
        await self.ask("POST", f"/containers/create?name={name}", body, status=201)

    def state(self, name: str) -> Any:
        assert self.lives.engine is not None
        return self.lives.engine.hands.views.containers.find(name)

    async def at_rest(self) -> None:
        """Everything has its outcome, and machine and log agree."""
        wrong: list[str] = ["nobody looked"]
        for _ in range(200):
            await trio.sleep(0.5)
            wrong = settled(self.lives.disk / "events.db", self.machine, self.clock.now_ns())
            if not wrong:
                return
        raise AssertionError(wrong)

    def refuse(self, verb: str, times: int = 1, *, after: bool = False) -> None:
        """The next calls of a driver's verb fail, before or after their effect."""
        faults = self.lives._faults
        perform = faults.perform
        left = times

        async def refusing(gate: Any, asked: str, effect: Callable[[], Any], **options: Any) -> Any:
            nonlocal left
            if asked != verb or not left:
                return await perform(gate, asked, effect, **options)
            left -= 1
            if after:
                await perform(gate, asked, effect, **options)
            raise PortError(verb, f"simulated fault of {verb}", errno=5)

        faults.perform = refusing  # type: ignore[method-assign, assignment]

    def hold(self, verb: str, *, after: bool = False, calls_before: int = 0) -> trio.Event:
        """The next call of a driver's verb, or a later one, waits for the event, before or after its effect."""
        faults = self.lives._faults
        perform = faults.perform
        calls, go_on = 0, trio.Event()

        async def holding(gate: Any, asked: str, effect: Callable[[], Any], **options: Any) -> Any:
            nonlocal calls
            calls += asked == verb
            if asked != verb or calls != calls_before + 1:
                return await perform(gate, asked, effect, **options)
            if not after:
                await go_on.wait()
            done = await perform(gate, asked, effect, **options)
            await go_on.wait()
            return done

        faults.perform = holding  # type: ignore[method-assign, assignment]
        return go_on


def play(tmp_path: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        from random import Random

        clock = SimulatedClock()
        async with trio.open_nursery() as nursery:
            machine = Machine(Random(1), nursery, clock.now_ns)
            lives = Lives(tmp_path, Random(1), machine, Faults(Random(1)))
            async with trio.open_nursery() as engines:
                engines.start_soon(lives.run)
                await story(World(lives, machine))
                lives.stopping = True
                lives.stop()
            assert machine.violations == []
            machine.close()
            nursery.cancel_scope.cancel()

    assert MEMORY
    with determined(1):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_undo_that_is_refused_is_done_before_the_failure_is_told(tmp_path: Path) -> None:
    """CTR-08, NET-14: else the port would be given to another container while the kernel still leads it to this one."""

    async def story(world: World) -> None:
        await world.create("web", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
        world.refuse("write folder")
        world.refuse("leave", times=3)
        await world.ask("POST", "/containers/web/start", status=500)
        assert world.machine.published == {}
        await world.ask("POST", "/containers/web/start", status=204)
        await world.at_rest()

    play(tmp_path, story)


def test_a_pause_that_fails_leaves_nothing_frozen(tmp_path: Path) -> None:
    """CTR-13: the freezer may have caught some of the processes, or all of them, before it gave up."""

    async def story(world: World) -> None:
        await world.create("web")
        await world.ask("POST", "/containers/web/start", status=204)
        world.refuse("freeze", after=True)
        await world.ask("POST", "/containers/web/pause", status=500)
        assert world.state("web").status is Status.RUNNING
        await world.at_rest()

    play(tmp_path, story)


def test_a_refused_creation_leaves_no_key(tmp_path: Path) -> None:
    """CTR-03: `docker run --name` of a name that is taken, again and again, must not fill the key store."""

    async def story(world: World) -> None:
        await world.create("web")
        assert world.lives.engine is not None
        keys = set(world.lives.engine.hands.vault.owners())
        body = {"Image": IMAGE, "Env": ["A=b"]}
        await world.ask("POST", "/containers/create?name=web", body, status=409)
        assert set(world.lives.engine.hands.vault.owners()) == keys

    play(tmp_path, story)


def test_a_container_leaves_a_network_only_when_its_start_is_over(tmp_path: Path) -> None:
    """NET-05: a disconnect in the middle of a start kept the address for nobody."""

    async def story(world: World) -> None:
        await world.ask("POST", "/networks/create", {"Name": "front"}, status=201)
        await world.create("web", NetworkMode="front")
        faults = world.lives._faults
        faults.on, faults.slow, faults.refuse, faults.lie = True, 1.0, 0.0, 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, "POST", "/containers/web/start")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(world.ask, "POST", "/networks/front/disconnect", {"Container": "web"})
        faults.on = False
        assert world.state("web").endpoints == ()
        await world.ask("DELETE", "/networks/front", status=204)
        await world.at_rest()

    play(tmp_path, story)


def test_published_ports_lead_where_the_start_put_them_after_a_restart_of_the_engine(tmp_path: Path) -> None:
    """NET-14, NET-22: a network that comes later, and before the others by its name, does not take them."""

    async def story(world: World) -> None:
        for name in ("front", "back"):
            await world.ask("POST", "/networks/create", {"Name": name}, status=201)
        await world.create("web", NetworkMode="front", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
        await world.ask("POST", "/containers/web/start", status=204)
        await world.ask("POST", "/networks/back/connect", {"Container": "web"}, status=200)
        published = dict(world.machine.published)
        world.lives.die()
        await world.ask("GET", "/containers/json", status=200)
        assert world.machine.published == published
        await world.ask("POST", "/networks/front/disconnect", {"Container": "web"}, status=200)
        assert world.machine.published == {}
        await world.at_rest()

    play(tmp_path, story)


def test_a_restart_that_meets_a_stop_is_answered_and_leaves_the_container_running(tmp_path: Path) -> None:
    """CTR-12: the later stop took the restart's place, and the client of the restart waited for ever."""

    async def story(world: World) -> None:
        await world.create("web", Behaviour(on_term=None))
        await world.ask("POST", "/containers/web/start", status=204)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.ask, "POST", "/containers/web/restart?t=9", status=204))
            await trio.sleep(0.1)
            nursery.start_soon(partial(world.ask, "POST", "/containers/web/stop?t=1", status=204))
        assert world.state("web").status is Status.RUNNING
        await world.at_rest()

    play(tmp_path, story)


def test_a_start_holds_nothing_on_a_network_that_was_left_in_the_same_breath(tmp_path: Path) -> None:
    """NET-05: a start composed of a state that did not know the disconnect yet kept an address for nobody."""

    async def story(world: World) -> None:
        await world.create("web")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, "POST", "/networks/bridge/disconnect", {"Container": "web"})
            nursery.start_soon(world.ask, "POST", "/containers/web/start")
        await world.at_rest()

    play(tmp_path, story)


def test_a_network_that_a_start_of_the_engine_could_not_make_again_is_made_later(tmp_path: Path) -> None:
    """NET-07: after a reboot; one refusal at the wrong moment left it without its bridge until the next restart."""

    async def story(world: World) -> None:
        await world.ask("POST", "/networks/create", {"Name": "front"}, status=201)
        world.lives.die()
        world.machine.reboot()
        world.refuse("create network", times=3)
        await world.ask("GET", "/containers/json", status=200)
        await world.at_rest()

    play(tmp_path, story)


def test_a_stop_that_waits_for_a_start_does_not_hold_up_the_end_of_the_engine(tmp_path: Path) -> None:
    """CTR-10, SYS-12: it goes on without its client, and not without its engine."""

    async def story(world: World) -> None:
        await world.create("web")
        faults = world.lives._faults
        faults.on, faults.slow, faults.refuse, faults.lie = True, 1.0, 0.0, 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unanswered, world, "POST", "/containers/web/start")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(unanswered, world, "POST", "/containers/web/stop")
            await trio.testing.wait_all_tasks_blocked()
            world.lives.stop()
        faults.on = False
        await world.at_rest()

    play(tmp_path, story)


async def unanswered(world: World, method: str, path: str) -> None:
    with pytest.raises(Cut):
        await world.ask(method, path)


def test_a_stop_goes_on_without_its_client(tmp_path: Path) -> None:
    """CTR-10: also while it still waits for a start."""

    async def story(world: World) -> None:
        await world.create("web")
        faults = world.lives._faults
        faults.on, faults.slow, faults.refuse, faults.lie = True, 1.0, 0.0, 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, "POST", "/containers/web/start")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.0001):
                await world.ask("POST", "/containers/web/stop")
        faults.on = False
        await world.at_rest()
        assert world.state("web").status is Status.EXITED

    play(tmp_path, story)


def test_a_shared_namespace_outlives_its_owner_without_the_owners_interface(tmp_path: Path) -> None:
    """CTR-38: the address was given to the next container while the one that shared still had it."""

    async def story(world: World) -> None:
        await world.create("web")
        await world.ask("POST", "/containers/web/start", status=204)
        for name, owner in (("log", "web"), ("app", "log")):
            body = {"Image": IMAGE, "HostConfig": {"NetworkMode": f"container:{owner}"}}
            await world.ask("POST", f"/containers/create?name={name}", body, status=201)
            await world.ask("POST", f"/containers/{name}/start", status=204)
        for name in ("log", "web"):
            await world.ask("POST", f"/containers/{name}/kill", status=204)
        await world.at_rest()

    play(tmp_path, story)


def test_a_network_that_can_not_be_made_leaves_no_bridge(tmp_path: Path) -> None:
    """NET-01: made by an engine that died, refused to the next one, it was nobody's until the one after that."""

    async def story(world: World) -> None:
        await world.ask("GET", "/networks", status=200)  # the default ones are there
        world.refuse("create network", after=True)
        await world.ask("POST", "/networks/create", {"Name": "front"}, status=500)
        await world.at_rest()

    play(tmp_path, story)


def test_a_pause_that_comes_too_late_does_not_freeze_the_next_run(tmp_path: Path) -> None:
    """CTR-13: the container ended while the freezer was still waited for, and its policy started it again."""

    async def story(world: World) -> None:
        await world.create("web", RestartPolicy={"Name": "always"})
        await world.ask("POST", "/containers/web/start", status=204)
        go_on = world.hold("freeze")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, "POST", "/containers/web/pause")
            await trio.testing.wait_all_tasks_blocked()
            first = world.machine.find(world.state("web").container_id)
            assert first is not None
            world.machine.end(first, 1)
            await trio.sleep(5)
            go_on.set()
        await world.at_rest()
        assert (world.state("web").status, world.state("web").run) == (Status.RUNNING, 2)

    play(tmp_path, story)


def test_a_start_that_is_begun_again_and_fails_earlier_gives_back_what_it_had_made(tmp_path: Path) -> None:
    """NET-14: cut off behind its published port, it could not open its namespace the second time."""

    async def story(world: World) -> None:
        await world.create("web", PortBindings={"80/tcp": [{"HostPort": "8080"}]})
        world.hold("start")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unanswered, world, "POST", "/containers/web/start")
            await trio.testing.wait_all_tasks_blocked()
            assert world.machine.published
            world.refuse("open sandbox")
            world.lives.die()
        await world.at_rest()
        assert (world.state("web").status, world.machine.published) == (Status.CREATED, {})

    play(tmp_path, story)


def test_a_kill_that_hears_late_of_its_success_does_not_thaw_the_next_run(tmp_path: Path) -> None:
    """CTR-13, CTR-14: a frozen process is thawed to die; the one it found was paused by somebody, and another."""

    async def story(world: World) -> None:
        await world.create("web")
        await world.ask("POST", "/containers/web/start", status=204)
        go_on = world.hold("signal", after=True)
        await world.ask("POST", "/containers/web/kill", status=204)
        await trio.sleep(1)
        await world.ask("POST", "/containers/web/start", status=204)
        await world.ask("POST", "/containers/web/pause", status=204)
        go_on.set()
        await world.at_rest()
        assert world.state("web").status is Status.PAUSED

    play(tmp_path, story)


def test_a_volume_that_is_removed_while_its_creation_fails_leaves_no_directory(tmp_path: Path) -> None:
    """Whoever could not make it may have made it all the same."""

    async def story(world: World) -> None:
        world.refuse("create volume", times=9, after=True)
        made = world.hold("create volume")
        async with trio.open_nursery() as clients:
            clients.start_soon(partial(world.ask, "POST", "/volumes/create", {"Name": "logs"}, status=500))
            await trio.sleep(0.05)
            await world.ask("DELETE", "/volumes/logs", status=204)
            made.set()
        await world.at_rest()

    play(tmp_path, story)


@pytest.mark.parametrize("calls_before", [0, 1])
def test_a_volume_that_is_removed_while_it_is_made_leaves_no_directory(tmp_path: Path, calls_before: int) -> None:
    """Made by the request's own hand and by the reactor's; whichever is late, the removal has the last word."""

    async def story(world: World) -> None:
        made = world.hold("create volume", calls_before=calls_before)
        removed = world.hold("remove volume", after=True)
        async with trio.open_nursery() as clients:
            clients.start_soon(partial(world.ask, "POST", "/volumes/create", {"Name": "logs"}))
            await trio.sleep(1)
            clients.start_soon(partial(world.ask, "DELETE", "/volumes/logs", status=204))
            await trio.sleep(1)
            made.set()
            await trio.sleep(1)
            removed.set()
        await world.at_rest()

    play(tmp_path, story)


def test_a_volume_that_is_removed_before_it_is_made_needs_no_directory_removed(tmp_path: Path) -> None:
    """VOL-01, VOL-04: the disk may refuse to give back what should not have been made."""

    async def story(world: World) -> None:
        made = world.hold("create volume")
        async with trio.open_nursery() as clients:
            clients.start_soon(partial(world.ask, "POST", "/volumes/create", {"Name": "logs"}, status=201))
            await trio.sleep(1)
            await world.ask("DELETE", "/volumes/logs", status=204)
            world.refuse("remove volume", times=9)
            made.set()
        assert world.machine.volumes == {}
        await world.at_rest()

    play(tmp_path, story)
