"""One seed, one life of a whole engine: clients and faults at once, then healing, then judgement.

Phases: faults and clients together, the engine killed at any step, stopped, its supervisor lost, its machine booted
anew; then nothing goes wrong any more, clients do a few things that must simply work, and everything has to come to
rest; then everything is removed, and nothing may be left. `run(seed)` returns what is wrong.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio
import trio.testing

from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.images import Images
from engine.projections.networks import Networks
from engine.projections.views import Views
from engine.projections.volumes import Volumes
from tests.simulation import checkers
from tests.simulation.clients import NETWORKS, VOLUMES, Client
from tests.simulation.disk import below
from tests.simulation.faults import Faults, SimulatedClock
from tests.simulation.lives import Complaints, Cut, Lives
from tests.simulation.machine import Machine
from tests.simulation.watchdog import free_the_stuck

REST_S_MAX = 400.0
"""Of virtual time: everything settles within it once nothing goes wrong. Retries wait 30 s at most, policies a minute,
a stop that is waited for as long as its deadline."""
LOOK_S = 1.7
STUCK_S = 1e6
"""Of virtual time: no simulation lasts that long unless somebody waits for ever behind a shield."""
MEMORY = Path("/dev/shm")


@dataclass
class Outcome:
    """What one seed led to."""

    seed: int
    wrong: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    lives: int = 0
    events: int = 0
    requests: int = 0


def run(seed: int, *, keep: Path | None = None) -> Outcome:
    """One simulation. keep: where the log is copied at its end."""
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="ishmael-simulation-") as root:
        steps = Steps()
        clock = trio.testing.MockClock(autojump_threshold=0)
        complaints = Complaints()
        logger = logging.getLogger("ishmael")
        logger.addHandler(complaints)
        logger.propagate = False
        try:
            with determined(seed):
                simulation = Simulation(seed, Path(root), steps, complaints, outcome)
                trio.run(simulation.main, clock=clock, instruments=[steps])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome.wrong.extend(f"the simulation ended: {cause}" for cause in _causes(error))
        finally:
            logger.removeHandler(complaints)
            if keep is not None:
                shutil.copytree(root, keep, dirs_exist_ok=True)
    return outcome


def _causes(error: BaseException) -> Iterator[str]:
    """The innermost exceptions of a group, with where they came from."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    else:
        yield "".join(traceback.format_exception(error)[-9:])


@contextlib.contextmanager
def determined(seed: int) -> Iterator[None]:
    """The same order of tasks for the same seed, and no threads: what would run in one runs at once.

    Reaches into trio as hypothesis's own plugin does; PYTHONHASHSEED must be set for sets of strings."""
    scheduler: Any = trio._core._run  # type: ignore[attr-defined]
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    threaded = trio.to_thread.run_sync

    async def at_once(function: Any, *arguments: Any, **_: Any) -> Any:
        return function(*arguments)

    trio.to_thread.run_sync = at_once  # type: ignore[assignment]
    try:
        yield
    finally:
        trio.to_thread.run_sync = threaded
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks; at a given one something happens."""

    def __init__(self) -> None:
        self.count = 0
        self.at = math.inf
        self.action: Any = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count >= self.at:
            self.at = math.inf
            self.action()


class Simulation:
    def __init__(self, seed: int, root: Path, steps: Steps, complaints: Complaints, outcome: Outcome) -> None:
        self._random = Random(seed)
        self._root = root
        self._steps = steps
        self._complaints = complaints
        self._outcome = outcome
        self._faults = Faults(Random(f"{seed}/faults"))
        self._clock = SimulatedClock()
        self._clients: list[Client] = []

    async def main(self) -> None:
        with below(self._faults.disk):
            await self._main()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            tell = self._outcome.wrong.append
            nursery.start_soon(free_the_stuck, nursery.cancel_scope, STUCK_S, tell, name="watchdog")
            machine = Machine(Random(f"{self._outcome.seed}/machine"), nursery, self._clock.now_ns)
            lives = Lives(self._root, self._random, machine, self._faults)
            self._complaints.alive = lambda: not lives.dying
            try:
                async with trio.open_nursery() as engines:
                    engines.start_soon(lives.run, name="lives")
                    await self._phases(machine, lives)
                    lives.stopping = True
                    lives.stop()
                self._judge_file(machine, lives)
                await self._judge_views(lives)
            finally:
                self._outcome.lives = lives.number
                self._outcome.story += [*lives.log, *self._faults.told]
                for client in self._clients:
                    self._outcome.story += client.log
                    self._outcome.wrong += client.violations
                    self._outcome.requests += len(client.log)
                self._outcome.story.sort(key=_time_of)
                self._outcome.wrong += self._complaints.found
                machine.close()
            nursery.cancel_scope.cancel()

    async def _phases(self, machine: Machine, lives: Lives) -> None:
        r = self._random
        self._faults.on = True
        async with trio.open_nursery() as trouble:
            trouble.start_soon(self._trouble, machine, lives, name="trouble")
            trouble.start_soon(self._fill_disk, name="full disk")
            await self._let_clients(lives, r.choice((1, 2, 4)), r.choice((5, 15, 30)))
            trouble.cancel_scope.cancel()
        self._steps.at = math.inf
        self._faults.heal()
        self._outcome.story.append(f"{trio.current_time():.3f} healed")
        await self._let_clients(lives, 2, 4)
        await self._come_to_rest(machine, lives)
        await self._remove_everything(lives)
        await self._come_to_rest(machine, lives, empty=True)

    async def _let_clients(self, lives: Lives, number: int, steps: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                client = Client(lives, Random(f"{self._outcome.seed}/{len(self._clients)}"), len(self._clients))
                self._clients.append(client)
                nursery.start_soon(client.run, steps, name=f"client {client.number}")

    async def _fill_disk(self) -> None:
        r = Random(f"{self._outcome.seed}/disk")
        for _ in range(r.choice((0, 0, 1, 3))):
            await trio.sleep(r.choice((1.0, 20.0)) * r.random())
            self._outcome.story.append(f"{trio.current_time():.3f} the disk is full")
            self._faults.disk.full = True
            await trio.sleep(r.choice((0.1, 3.0, 40.0)) * r.random())
            self._outcome.story.append(f"{trio.current_time():.3f} the disk has room")
            self._faults.disk.full = False

    async def _trouble(self, machine: Machine, lives: Lives) -> None:
        r = self._random
        every_s = r.choice((1.0, 5.0, 30.0))
        for _ in range(r.choice((0, 1, 2, 4, 8))):
            await trio.sleep(every_s * r.random())
            what = r.random()
            if what < 0.5:
                self._steps.action = lambda lost=r.random() < 0.2: lives.die(views_lost=lost)
                self._steps.at = self._steps.count + r.choice((100, 1000, 5000)) * r.random()
            elif what < 0.6:
                lives.stop()
            elif what < 0.7 and machine.processes:
                machine.run_out_of_memory(r.choice(list(machine.processes.values())))
            elif what < 0.8:
                self._outcome.story.append(f"{trio.current_time():.3f} the supervisor is lost")
                machine.lose_supervisor()
            else:
                self._outcome.story.append(f"{trio.current_time():.3f} the power fails in the next commit")
                self._faults.disk.cut_in_commit(lives.lose_power)

    # -- judgement -----------------------------------------------------------------------------------------------------

    async def _come_to_rest(self, machine: Machine, lives: Lives, *, empty: bool = False) -> None:
        wrong: list[str] = ["nobody looked"]
        with trio.move_on_after(REST_S_MAX):
            while wrong:
                await trio.sleep(LOOK_S)
                if lives.engine is not None:
                    wrong = checkers.settled(lives.disk / "events.db", machine, self._clock.now_ns())
                    if empty:
                        wrong += self._left(machine, lives)
        self._outcome.wrong += [f"at rest: {each}" for each in wrong]

    @staticmethod
    def _left(machine: Machine, lives: Lives) -> list[str]:
        assert lives.engine is not None
        things: dict[str, Any] = {
            "processes": machine.processes,
            "cgroups": machine.cgroups,
            "layers": machine.rootfs,
            "folders": machine.folders,
            "volumes": machine.volumes,
            "ports": machine.published,
            "interfaces": machine.veths(),
            "namespaces": machine.living_namespaces(),
            "keys": lives.engine.hands.vault.owners(),
        }
        return [f"{what} are left: {list(left)}" for what, left in things.items() if left]

    async def _remove_everything(self, lives: Lives) -> None:
        """Each request must be granted: nothing is wrong any more."""

        async def must(method: str, path: str) -> Any:
            with contextlib.suppress(Cut), trio.move_on_after(REST_S_MAX):
                answer = await lives.ask(method, path)
                if answer.status < 400 or answer.status == 404:
                    return answer.json if answer.body else None
                self._outcome.wrong.append(f"{method} {path}: {answer.status} {answer.body.decode()}")
                return None
            self._outcome.wrong.append(f"{method} {path}: no answer")
            return None

        for row in await must("GET", "/containers/json?all=1") or ():
            await must("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        for name in NETWORKS:
            await must("DELETE", f"/networks/{name}")
        volumes = (await must("GET", "/volumes") or {}).get("Volumes") or ()
        for name in {*VOLUMES, *(volume["Name"] for volume in volumes)}:
            await must("DELETE", f"/volumes/{name}?force=1")

    def _judge_file(self, machine: Machine, lives: Lives) -> None:
        log = lives.disk / "events.db"
        self._outcome.wrong += checkers.safety(log, machine, lives.promised)
        self._outcome.events = len(checkers.history(log))

    async def _judge_views(self, lives: Lives) -> None:
        """The views that the last engine wrote down are those of the log alone."""
        fresh, lived = self._root / "fresh", self._root / "lived"
        for folder, names in ((fresh, ("events.db",)), (lived, ("events.db", "views.db"))):
            folder.mkdir()
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(lives.disk / name, folder / name)
        self._outcome.wrong += await checkers.derived(lived, fresh, views)


def views() -> Views:
    return Views(
        containers=Containers(),
        images=Images(),
        networks=Networks(),
        volumes=Volumes(),
        execs=Execs(),
        events=EventsFeed(),
    )


def _time_of(line: str) -> float:
    try:
        return float(line.split()[0])
    except (ValueError, IndexError):
        return math.inf
