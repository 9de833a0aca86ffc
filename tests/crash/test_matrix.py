"""Every operation x every point x who dies: the engine, its supervisor, or both (WIN-04, WIN-20).

The points are those that a clean run of the operation passes: before and after each append to the log and each verb of
a driver, and the first call of each function of the supervisor and of what it forks. Afterwards the world is the one
before or the one behind the operation, what was acknowledged stays, nothing is open or left over, the log proves
itself, and the operation can be had again.

`ISHMAEL_CRASH_MATRIX=full` takes all of them (`make crash-matrix`) and writes what docs/reliability.md shows to the
file that `ISHMAEL_CRASH_TABLE` names; else a sample, by `ISHMAEL_SEED`.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from replay.verify import verify
from tests.crash.points.control import VARIABLE, Control
from tests.crash.points.nursery import Nursery
from tests.crash.points.operations import OPERATIONS, Call, Place, look, tidy
from tests.support.audit import TRASH, settled_without_leaks
from tests.support.engine import Engine
from tests.support.outside import standing_in
from tests.support.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(7200)]

FULL = os.environ.get("ISHMAEL_CRASH_MATRIX") == "full"
SAMPLE = int(os.environ.get("ISHMAEL_CRASH_SAMPLE", "2"))
"""Points of each operation in a sample."""
PART = os.environ.get("ISHMAEL_CRASH_PART", "1/1")
"""Which of how many parts of the points, for those who share an operation out among machines."""
SEED = os.environ.get("ISHMAEL_SEED") or str(random.randrange(1_000_000))
VICTIMS = ("engine", "supervisor", "both")
ANSWER_S = 40.0
FIRST_POINTS = {"before append", "after append"}
"""No operation is without them."""
REHEARSALS_MAX = 4
FAILURES_MAX = 5
"""Of an operation: then the others are not tried any more."""
TOLD = 3000
"""Characters of the engine's log behind each failure."""


class PointedEngine(Engine):
    """An engine, and a supervisor, that can be stopped at a point."""

    def __init__(self) -> None:
        super().__init__()
        self.control = Control(str(self.root / "points"))
        path = str(Path(__file__).parents[2])
        surroundings = {**os.environ, VARIABLE: str(self.root / "points"), "PYTHONPATH": path}
        self._nursery = Nursery(self.name, surroundings)

    def launch(self) -> subprocess.Popen[bytes]:
        return cast("subprocess.Popen[bytes]", self._nursery.fork(self.arguments, self.log))

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._nursery.close()


class Request(threading.Thread):
    """One request; its status, 0 without an answer."""

    def __init__(self, engine: Engine, call: Call) -> None:
        super().__init__(daemon=True)
        self._engine, self._call = engine, call
        self.status, self.answer = 0, b""

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.status, self.answer = self._engine.request(*self._call)

    @property
    def acknowledged(self) -> bool:
        return 200 <= self.status < 300 and b'"errorDetail"' not in self.answer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    engine = PointedEngine()
    with standing_in(engine.name), running_registry(tmp_path_factory.mktemp("registry")) as registry:
        try:
            engine.start()
            engine.load_busybox()
            yield Place(engine, registry)
            settled_without_leaks(engine)
        finally:
            engine.control.disarm()
            engine.close()


def rehearse(place: Place, operation: str) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """A clean run: its points, the world before and behind it."""
    control = place.engine.control  # type: ignore[attr-defined]
    call = OPERATIONS[operation](place)
    before = look(place.engine)
    control.arm()
    request = Request(place.engine, call)
    request.start()
    request.join(ANSWER_S)
    settled_without_leaks(place.engine, besides=TRASH)
    control.disarm()
    assert request.status, f"{operation} was not answered"
    behind = look(place.engine)
    tidy(place)
    return control.names(), before, behind


def strike(place: Place, operation: str, point: str, victim: str) -> tuple[Request, Call, bool]:
    """The operation, with a death at a point. Whether the point was met: two runs are never quite the same."""
    engine, control = place.engine, place.engine.control  # type: ignore[attr-defined]
    call = OPERATIONS[operation](place)
    control.arm(point)
    request = Request(engine, call)
    request.start()
    deadline = time.monotonic() + 10
    while not control.hit and (request.is_alive() or time.monotonic() < deadline - 8) and time.monotonic() < deadline:
        time.sleep(0.002)
    met = control.hit
    if met and victim != "engine":
        engine.end_supervisor()
    if met and victim != "supervisor":
        assert engine.process is not None
        os.kill(engine.process.pid, signal.SIGKILL)
        engine.process.wait()
    control.disarm()
    if met and victim != "supervisor":
        engine.start()
    request.join(ANSWER_S)
    assert not request.is_alive(), f"{call.method} {call.path} hangs"
    return request, call, met


def check(place: Place, request: Request, call: Call, victim: str, before: Any, behind: Any) -> None:
    settled_without_leaks(place.engine, besides=TRASH)
    now = look(place.engine)
    allowed = [behind] if request.acknowledged else [before, behind]
    if victim != "engine":
        allowed += [without_supervisor(world, now) for world in allowed]
    assert now in allowed, f"{request.status} {request.answer[:300]!r}: {now}, not one of {allowed}"
    verified = verify(place.engine.data_root / "events.db")
    assert verified.whole, verified.findings
    status, answer = place.engine.request(*call)
    assert status in (200, 201, 204, 304, 400, 403, 404, 409) or b"is not" in answer, (status, answer)
    tidy(place)


def without_supervisor(world: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A world whose running containers may have ended: a supervisor that dies takes its containers' parent with it."""
    changed = copy.deepcopy(world)
    for name, container in changed["containers"].items():
        if container["status"] in ("running", "paused") and now["containers"].get(name, {}).get("status") == "exited":
            container["status"] = "exited"
    return changed


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whoever_dies_at_whatever_point_of_an_operation(place: Place, operation: str) -> None:
    chance = random.Random(f"{SEED}/{operation}")
    points, before, behind = rehearse(place, operation)
    for _ in range(REHEARSALS_MAX - 1):
        if FIRST_POINTS <= set(points):
            break
        points, before, behind = rehearse(place, operation)  # programs that came by at once wrote over each other
    assert FIRST_POINTS <= set(points), points
    cases = [(point, victim) for point in points for victim in VICTIMS]
    share, shares = map(int, PART.split("/"))
    cases = cases[share - 1 :: shares]
    if not FULL:
        cases = chance.sample(cases, min(SAMPLE, len(cases)))
    met, failures = 0, list[str]()
    for point, victim in cases:
        try:
            request, call, hit = strike(place, operation, point, victim)
            check(place, request, call, victim, before, behind)
            met += hit
        except Exception as error:
            told = place.engine.log.read_text()[-TOLD:]
            print(operation, point, victim, repr(error), flush=True)
            failures.append(f"ISHMAEL_SEED={SEED}: {operation}, {point!r}, {victim} killed: {error!r}\n{told}")
            if len(failures) == FAILURES_MAX:
                break
            revive(place)
            tidy(place)
    assert not failures, "\n\n".join(failures)
    note(operation, points, len(cases), met)
    assert met >= len(cases) * 0.5 or len(cases) < 6, f"only {met} of {len(cases)} points were met again"


def revive(place: Place) -> None:
    """Behind a failure there may be no engine any more."""
    try:
        assert place.engine.request("GET", "/_ping")[0] == 200
    except (OSError, http.client.HTTPException, AssertionError) as error:
        print(f"the engine is gone: {error!r}", flush=True)
        process = place.engine.process
        assert process is not None
        process.kill()
        process.wait()
        place.engine.start()


@pytest.mark.parametrize(
    ("operation", "point", "victim"),
    [
        ("stop", "in cgroups.remove", "supervisor"),  # the next supervisor knew nothing of the group
        ("execute", "before append", "engine"),  # the copier had the client, and nobody began or ended its exec
        ("execute", "before runtime.execute", "engine"),
    ],
)
def test_deaths_that_once_left_something(place: Place, operation: str, point: str, victim: str) -> None:
    _, before, behind = rehearse(place, operation)
    request, call, met = strike(place, operation, point, victim)
    check(place, request, call, victim, before, behind)
    assert met, "the point has another name now"


def note(operation: str, points: list[str], cases: int, met: int) -> None:
    """One line of the table."""
    path = os.environ.get("ISHMAEL_CRASH_TABLE")
    if path:
        kinds = {
            "appends": sum(point.endswith("append") or " append (" in point for point in points),
            "effects": sum(point.startswith(("before ", "after ")) and "append" not in point for point in points),
            "supervisor": sum(point.startswith("in ") for point in points),
        }
        with Path(path).open("a") as file:
            file.write(json.dumps({"operation": operation, **kinds, "deaths": met, "cases": cases}) + "\n")
