"""kill -9 of the engine at random moments, with everything in flight: nothing is lost, nothing is left over.

`ISHMAEL_CRASHES` says how often (`make crash`: 50), `ISHMAEL_SEED` repeats a run's choices; a failure prints it. The
choices repeat, not their timing: a crash hits another instruction each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from engine.aggregates.container import events as e
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from replay.world import World
from tests.crash.clients import STEADY_IMAGE, Client, agree, at_work, keep, one_life, push_images
from tests.crash.workload import ENDLESS, Workload, check_log
from tests.support.audit import containers_of, events_of, settled_without_leaks, world_of
from tests.support.engine import Engine, running_engine
from tests.support.outside import standing_in
from tests.support.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

CRASHES = int(os.environ.get("ISHMAEL_CRASHES", "6"))
STEADY = 20
CLIENTS = 4
STOPPED_CODES = frozenset({137, 143})


class Steady:
    """Containers that nobody touches: each has exactly the log, the state and the exit code of its workload."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        self.engine, self.chance = engine, chance
        self.workloads: dict[str, tuple[Workload, str]] = {}
        self.made = 0

    def refill(self) -> None:
        while len(self.workloads) < STEADY:
            self.made += 1
            lines = ENDLESS if self.made % 2 else self.chance.randrange(1, 300)
            policy = self.chance.choice(("", "", "always", "on-failure")) if lines != ENDLESS else ""
            workload = Workload(lines=lines, code=self.chance.randrange(1, 120))
            name = f"steady-{self.made}"
            host = {"RestartPolicy": {"Name": policy, "MaximumRetryCount": 2 if policy == "on-failure" else 0}}
            body = {"Image": STEADY_IMAGE, "Cmd": workload.command, "HostConfig": host}
            status, answer = self.engine.request("POST", f"/containers/create?name={name}", body)
            assert status == 201, answer
            status, answer = self.engine.request("POST", f"/containers/{name}/start")
            assert status == 204, answer
            self.workloads[json.loads(self.engine.request("GET", f"/containers/{name}/json")[1])["Id"]] = (
                workload,
                policy,
            )

    def check(self, world: World) -> None:
        for container_id, (workload, policy) in list(self.workloads.items()):
            state = world.states[f"container:{container_id}"]
            over = state.status is Status.EXITED
            log = log_of(self.engine, state)
            check_log(log, workload, ended=over, cut=False)  # one that restarts may be in its next run by now
            if workload.endless:
                assert state.status is Status.RUNNING, f"{state.name} is {state.status.value}"
            elif state.status is not Status.RUNNING:
                assert state.exit_code == workload.code, f"{state.name}: {state.exit_code} instead of {workload.code}"
                assert not (over and policy == "always"), f"{state.name} is {state.status.value}"
                assert not over or policy != "on-failure" or state.restart_count == 2, f"{state.name}: {state}"
            if over:
                status, answer = self.engine.request("DELETE", f"/containers/{container_id}")
                assert status == 204, answer
                del self.workloads[container_id]


def log_of(engine: Engine, state: ContainerState) -> Path:
    return engine.data_root / "containers" / state.container_id / f"{state.container_id}-json.log"


def test_nothing_is_lost_and_nothing_is_left_over_when_the_engine_is_killed(tmp_path: Path) -> None:
    seed = os.environ.get("ISHMAEL_SEED") or str(random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    with (
        running_engine("-D") as engine,
        standing_in(engine.name),
        running_registry(tmp_path) as registry,
    ):
        push_images(registry, CLIENTS)
        steady = Steady(engine, chance)
        clients = [Client(engine, number, seed, registry) for number in range(CLIENTS)]
        with at_work(engine, clients, seed):
            for number in range(CRASHES):
                steady.refill()
                one_life(clients, chance.uniform(0.1, 2.5), partial(crash, engine, chance))
                check(engine, steady, clients)
                print(f"crash {number + 1}: {sum(len(client.done) for client in clients)} requests, "
                      f"position {world_of(engine).position}", flush=True)  # fmt: skip
            end(engine, clients)


def crash(engine: Engine, chance: random.Random) -> None:
    """Kill it, and now and then kill it again while it recovers. Sometimes it is asked to stop: that loses no less."""
    if chance.random() < 0.15:
        assert engine.stop() == 0
    else:
        engine.kill()
    while chance.random() < 0.3:
        with contextlib.suppress(AssertionError):
            starting = threading.Thread(target=start_in_vain, args=(engine,))
            starting.start()
            time.sleep(chance.uniform(0.3, 1.2))
            assert engine.process is not None
            engine.process.kill()
            starting.join()
            engine.process = None
    engine.start()


def start_in_vain(engine: Engine) -> None:
    with contextlib.suppress(AssertionError):
        engine.start()


def check(engine: Engine, steady: Steady, clients: list[Client]) -> None:
    world = settled_without_leaks(engine)
    lost = [
        event.stream for event in events_of(engine) if isinstance(event.event, e.ContainerExited) and event.event.lost
    ]
    assert not lost, f"nobody saw the exits of {lost}"
    steady.check(world)
    for client in clients:
        check_promises(engine, world, client)
    verified = engine.replay("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def check_promises(engine: Engine, world: World, client: Client) -> None:
    """What was acknowledged is there; what was cut off is one thing or the other, and from now on known."""
    by_name = {state.name: state for state in containers_of(world)}
    for thing in client.containers.values():
        state = by_name.get(thing.name)
        agree(thing, state is not None)
        if state is None:
            thing.running = False
            continue
        alive = state.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)
        # A policy of `always` starts also what was stopped by hand, once the engine starts again: so does Docker's.
        known = thing.running is not None and (thing.running or thing.policy != "always")
        assert not known or thing.running == alive, f"{thing}: {state.status.value}; {client.done[-3:]}"
        ended = not state.alive and state.started_at > 0
        check_log(log_of(engine, state), thing.workload, ended=ended and state.exit_code not in STOPPED_CODES, cut=True)
        if ended:
            codes = STOPPED_CODES | {thing.workload.code}
            assert state.exit_code in codes, f"{thing}: {state.exit_code}"
        thing.running = alive if thing.workload.endless or not alive else None
    check_others(world, client)


def check_existence(world: World, client: Client) -> None:
    """Of containers only that they are there: how they ended is lost."""
    by_name = {state.name: state for state in containers_of(world)}
    for thing in client.containers.values():
        agree(thing, thing.name in by_name)
        state = by_name.get(thing.name)
        thing.running = None if state is not None and state.status is not Status.CREATED else False
    check_others(world, client)


def check_others(world: World, client: Client) -> None:
    present = {state.settings.name for state in world.living("network")}
    for thing in client.networks.values():
        agree(thing, thing.name in present)
    present = {state.name for state in world.living("volume")}
    for thing in client.volumes.values():
        agree(thing, thing.name in present)
    present = {name for state in world.living("image") for name in state.references}
    for thing in client.images.values():
        agree(thing, {thing.name, f"docker.io/library/{thing.name}"} & present != set())


def end(engine: Engine, clients: list[Client]) -> None:
    """The engine works, and everything can be removed."""
    assert engine.out("run", "--rm", "busybox", "echo", "still here") == "still here"
    for row in engine.json("/containers/json?all=1"):
        status, answer = engine.request("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        assert status == 204, answer
    for client in clients:
        for path, things in (("networks", client.networks), ("volumes", client.volumes), ("images", client.images)):
            for thing in things.values():
                if thing.exists:
                    status, answer = engine.request("DELETE", f"/{path}/{thing.name}")
                    assert status in (200, 204), answer
    settled_without_leaks(engine)


def test_nothing_is_left_over_when_supervisor_and_engine_are_killed_together(tmp_path: Path) -> None:
    """Then exits are lost with them, and nothing else: containers are ended, and told so by the log."""
    seed = os.environ.get("ISHMAEL_SEED") or str(random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    with (
        running_engine("-D") as engine,
        standing_in(engine.name),
        running_registry(tmp_path) as registry,
    ):
        push_images(registry, CLIENTS)
        clients = [Client(engine, number, seed, registry) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for _ in range(max(2, CRASHES // 5)):
                for client in clients:
                    client.begin()
                time.sleep(chance.uniform(0.5, 2))
                engine.kill()
                engine.end_supervisor()
                engine.start()
                for client in clients:
                    client.rest()
                    assert not client.failures, client.failures
                world = settled_without_leaks(engine)
                for client in clients:
                    check_existence(world, client)
                assert engine.replay("verify").returncode == 0
        except BaseException:
            keep(engine)
            print(f"ISHMAEL_SEED={seed}")
            raise
        finally:
            for client in clients:
                client.quit = True
                client.go.set()
