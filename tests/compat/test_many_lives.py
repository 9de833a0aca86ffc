"""Many containers, at once and one after the other: what engine, supervisor and copier hold does not grow.

`ISHMAEL_LIVES` says how many lives the sequence has (4,000 for figures that mean something); the slopes are printed, of
each quarter of it.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.audit import settled_without_leaks
from tests.support.engine import Engine

LIVES = int(os.environ.get("ISHMAEL_LIVES", "60"))
AT_ONCE = int(os.environ.get("ISHMAEL_AT_ONCE", "24"))
pytestmark = [pytest.mark.root, pytest.mark.timeout(max(300, 4 * LIVES))]
WARM = 20
"""Lives before the first look: caches and pools fill."""
QUARTERS = 4
LONG = 2_000
KIB_PER_LIFE_MAX = 3.0
"""Of each process, in the last quarter of a long sequence: a ring of events and cached folds (2,048 of each) fill up to
their bounds before."""


class Held:
    """What the processes of an engine hold."""

    def __init__(self, engine: Engine) -> None:
        assert engine.process is not None
        pids = [engine.process.pid, *sorted(engine.supervisors())]
        self.fds = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
        self.kib = [_resident_kib(pid) for pid in pids]
        self.zombies = sum(_is_zombie(pid) for pid in _children_of(pids))


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _children_of(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def live_once(engine: Engine, name: str) -> None:
    """Created with a volume and a port, started, waited for, removed."""
    body = {
        "Image": "busybox",
        "Cmd": ["true"],
        "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": ""}]}},
    }
    for method, path, given, wanted in (
        ("POST", f"/containers/create?name={name}", body, 201),
        ("POST", f"/containers/{name}/start", None, 204),
        ("POST", f"/containers/{name}/wait", None, 200),
        ("DELETE", f"/containers/{name}?v=1", None, 204),
    ):
        status, answer = engine.request(method, path, given)
        assert status == wanted, (name, path, answer)


def test_lives_in_sequence_leave_nothing_behind(engine: Engine) -> None:
    """CTR-18: descriptors stay the same, memory does not follow the number of lives, and the machine is as before."""
    for number in range(WARM):
        live_once(engine, f"warm-{number}")
    settled_without_leaks(engine)
    first = before = Held(engine)
    slopes: list[float] = []
    for quarter in range(QUARTERS):
        for number in range(LIVES // QUARTERS):
            live_once(engine, f"life-{quarter}-{number}")
        settled_without_leaks(engine)
        engine.wait_for(lambda: Held(engine).fds <= first.fds)
        after = Held(engine)
        slopes = [(now - then) * QUARTERS / LIVES for then, now in zip(before.kib, after.kib, strict=True)]
        print(f"\nquarter {quarter + 1} of {LIVES} lives: KiB a life {[round(slope, 2) for slope in slopes]}")
        print(f"engine, supervisors: descriptors {first.fds} -> {after.fds}; KiB {before.kib} -> {after.kib}")
        assert after.zombies == 0
        before = after
    if LIVES >= LONG:
        assert max(slopes) < KIB_PER_LIFE_MAX, slopes


def test_many_containers_at_once_leave_nothing_behind(engine: Engine) -> None:
    """CTR-18: started and stopped in parallel."""
    live_once(engine, "warm")
    settled_without_leaks(engine)
    before = Held(engine)
    failures: list[str] = []

    def live(number: int) -> None:
        name = f"parallel-{number}"
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"Binds": [f"v{number % 5}:/data"]}}
        for method, path, given, wanted in (
            ("POST", f"/containers/create?name={name}", body, 201),
            ("POST", f"/containers/{name}/start", None, 204),
            ("POST", f"/containers/{name}/stop?t=0", None, 204),
            ("DELETE", f"/containers/{name}", None, 204),
        ):
            status, answer = engine.request(method, path, given)
            if status != wanted:
                failures.append(f"{method} {path}: {status} {answer!r}")
                return

    threads = [threading.Thread(target=live, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    settled_without_leaks(engine)
    engine.wait_for(lambda: Held(engine).fds <= before.fds)
    assert Held(engine).zombies == 0
