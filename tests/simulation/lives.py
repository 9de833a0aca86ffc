"""The lives of one engine over one machine: started, killed at any step, started again on what the disk has.

Owns: the engine under test (the real composition, with its log on a memory file system), requests to its application,
and death. A death is one step between two steps of anybody: the gate of the drivers is shut, the files are copied as
they are (as far as they had been written, when the power fails), and only then are the tasks taken down: whatever they
still do is done by nobody, in nobody's files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from engine import transactions
from engine.aggregates.decider import Cause, Command
from engine.aggregates.image import AddImage
from engine.aggregates.values.descriptor import OCI_CONFIG, Descriptor
from engine.aggregates.values.ids import Digest, ImageID
from engine.aggregates.values.platform import Platform
from engine.api.app import EngineApp, understood
from engine.api.peer import Peer
from engine.api.request import Body, Request
from engine.api.responses import closing
from engine.composition import Engine
from engine.config import ConfigError, DaemonConfig
from engine.errors import PortError
from tests.simulation.disk import Files
from tests.simulation.drivers.together import SURROUNDINGS, simulated_drivers
from tests.simulation.faults import Faults, Gate, SeededEntropy, SimulatedClock
from tests.simulation.machine import Machine
from tests.support.images import digest

IMAGE = "busybox:latest"
CANONICAL = "docker.io/library/busybox:latest"
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["act", "", "0", "143", "0"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
).encode()
LOG_FILES = ("events.db", "keys.db")
VIEW_FILES = ("views.db", "views-events.db")
START_AGAIN_S = 1.0
REFUSED_STARTS_MAX = 20
"""So often in a row the world may refuse a start."""


class Cut(Exception):
    """The engine went away before it answered."""


def image_of(config: bytes, reference: str, now_ns: int) -> tuple[Command, ...]:
    """An image without layers, by its configuration."""
    image_id = ImageID(digest(config))
    add = AddImage(
        image_id=image_id,
        at=now_ns,
        platform=Platform(os="linux", architecture="amd64"),
        created_at=0,
        layers=(),
        config=Descriptor(media_type=OCI_CONFIG, digest=Digest(image_id), size=len(config)),
        manifest=None,
        labels={},
    )
    return (add, *transactions.tag(image_id, reference, "", now_ns))


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class _Request:
    scope: dict[str, Any]
    body: bytes
    done: trio.Event = field(default_factory=trio.Event)
    answer: Answer | None = None


class Complaints(logging.Handler):
    """Bugs that the engine itself noticed: exceptions that are no refusal of the world."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []
        self.alive = lambda: True

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, PortError) and self.alive():
            trace = "".join(traceback.format_exception(error))
            self.found.append(f"{record.getMessage()}: {error!r}\n{trace}")


class Lives:
    """`run` keeps an engine alive until cancelled. `disk` is the directory of the present one."""

    def __init__(self, root: Path, random: Random, machine: Machine, faults: Faults) -> None:
        self._root = root
        self._random = random
        self._machine = machine
        self._faults = faults
        self._entropy = SeededEntropy(random)
        self._scope: trio.CancelScope | None = None
        self._requests: trio.Nursery | None = None
        self._gate = Gate()
        self._app: Any = None
        self.engine: Engine | None = None
        self.up = trio.Event()
        self.number = 0
        self.disk = root / "0"
        self.disk.mkdir()
        self.refused_starts = 0
        self._refused_in_a_row = 0
        self.stopping = False
        self.log: list[str] = []
        self.names: set[str] = set()
        """Of containers that clients have made and not seen removed."""
        self.promised: dict[int, bytes] = {}
        """Where the log ended when somebody was answered, with its seal there."""

    # -- lives and deaths ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while not self.stopping:
            await self._life()
            if not self.stopping:
                await trio.sleep(self._random.choice((0.0, START_AGAIN_S, 20.0)) * self._random.random())

    async def _life(self) -> None:
        self.number += 1
        self._gate = Gate()
        mine = self.disk
        clock = SimulatedClock()
        drivers = simulated_drivers(self._machine, self._gate, self._faults)
        engine = Engine(DaemonConfig(data_root=str(mine)), drivers, SURROUNDINGS, clock, self._entropy)
        began = trio.current_time()
        self._faults.spared = self._refused_in_a_row >= REFUSED_STARTS_MAX
        try:
            with trio.CancelScope() as self._scope:
                async with engine.running():
                    assert not engine.damage, engine.damage  # no failure of the power damages what was synced
                    await self._add_image(engine)
                    self._faults.spared, self._refused_in_a_row = False, 0
                    async with trio.open_nursery() as requests:
                        await trio.lowlevel.checkpoint()  # for one that died or was stopped before it was up
                        self._requests, self.engine, self._app = requests, engine, engine.app
                        self.log.append(f"{trio.current_time():.3f} engine {self.number} is up, begun at {began:.3f}")
                        self.up.set()
                        try:
                            await trio.sleep_forever()
                        finally:  # also when the engine ends by itself, which is told below
                            self._let_nobody_in()
        except* (PortError, ConfigError) as group:
            # At a start the world may refuse; whoever looks after the engine starts it again.
            if not self._faults.on or self.engine is not None:
                raise
            self.refused_starts += 1
            self._refused_in_a_row += 1
            self.log.append(f"{trio.current_time():.3f} engine {self.number} did not start: {group.exceptions}")
        finally:
            self.engine = self._app = self._requests = self._scope = None
        if self.disk != mine:
            shutil.rmtree(mine)

    def die(self, *, views_lost: bool = False) -> None:
        """kill -9, in one step. views_lost: derived state had not reached the disk."""
        if self._scope is None or self._gate.shut:
            return
        self.log.append(f"{trio.current_time():.3f} engine {self.number} dies")
        self._leave(dict.fromkeys((*LOG_FILES, *(() if views_lost else VIEW_FILES)), shutil.copy))

    def lose_power(self, before: Files) -> None:
        """Engine and machine stop in one step; what was being written is torn, what nobody synced may be lost."""
        if self._scope is None or self._gate.shut:
            return
        self.log.append(f"{trio.current_time():.3f} engine {self.number} loses its power")
        disk = self._faults.disk
        ways: dict[str, Callable[[Path, Path], object]] = {}
        ways |= {name: lambda path, to: disk.copy(path, to, before) for name in LOG_FILES}
        ways |= dict.fromkeys(VIEW_FILES, disk.copy_unsynced)
        self._leave(ways)
        self._machine.reboot()

    def _leave(self, ways: Mapping[str, Callable[[Path, Path], object]]) -> None:
        """Dead from now on. ways: how each file is copied to where the next engine finds it."""
        self._gate.shut = True
        copied = self._root / str(self.number)
        copied.mkdir()
        for name, copy in {**ways, "engine-id": shutil.copy}.items():
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    copy(self.disk / (name + suffix), copied / (name + suffix))
        self.disk = copied
        self._take_down()

    def stop(self) -> None:
        """SIGTERM."""
        if self._scope is not None and not self._gate.shut:
            self.log.append(f"{trio.current_time():.3f} engine {self.number} is stopped")
            self._take_down()

    def _take_down(self) -> None:
        """Nobody is let in any more, and everybody inside has to go."""
        assert self._scope is not None
        self._let_nobody_in()
        self._scope.cancel()

    def _let_nobody_in(self) -> None:
        self._requests = None
        if self.up.is_set():
            self.up = trio.Event()

    @property
    def dying(self) -> bool:
        return self._gate.shut

    async def _add_image(self, engine: Engine) -> None:
        image_id = ImageID(digest(CONFIG))
        hands = engine.hands
        if hands.views.images.get(image_id) is not None:
            return
        self._machine.blobs[image_id] = CONFIG
        commands = image_of(CONFIG, CANONICAL, hands.clock.now_ns())
        await hands.application.execute(*commands, cause=Cause(actor="simulation", correlation="image"))

    # -- requests ------------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request to whatever engine lives, once one does. Raises Cut when it dies before it has answered."""
        while self._requests is None:
            await self.up.wait()
        path, _, query = path.partition("?")
        headers = [(b"host", b"localhost"), (b"x-request-id", self._entropy.token(4).hex().encode())]
        payload = b"" if body is None else json.dumps(body).encode()
        if payload:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
        scope = {
            "http_version": "1.1",
            "method": method,
            "path": f"/v1.53{path}",
            "query_string": query.encode(),
            "headers": headers,
            "state": {"peer": Peer(uid=0, gid=0, pid=1)},
        }
        request = _Request(scope, payload)
        assert self._requests is not None
        self._requests.start_soon(self._handle, request, self._app, name=f"{method} {path}")
        await request.done.wait()
        if request.answer is None:
            raise Cut(f"{method} {path}")
        return request.answer

    def _promise(self) -> None:
        """Who is answered may rely on everything that has happened."""
        assert self.engine is not None
        recorder = self.engine.hands.application._recorder
        self.promised[recorder.position] = recorder.seal

    async def _handle(self, request: _Request, app: EngineApp) -> None:
        try:
            async with trio.open_nursery() as nursery:
                response = await app.answer(Request(understood(request.scope), Body(request.body), nursery))
                pieces = [response.body] if isinstance(response.body, bytes) else []
                if not isinstance(response.body, bytes):
                    async with closing(response.body):
                        async for piece in response.body:
                            await trio.lowlevel.checkpoint()
                            pieces.append(piece)
                await trio.lowlevel.checkpoint()
                if not self._gate.shut:
                    self._promise()
                    request.answer = Answer(response.status, b"".join(pieces))
                nursery.cancel_scope.cancel()
        finally:
            request.done.set()
