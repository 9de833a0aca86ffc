"""WIN-09: files beside the log (blobs, notes about layers, segments, snapshots, the supervisor's journal, files of
containers) are cut or garbled: the engine starts, twice, reads are answered, and what is lost is told in words.

`ISHMAEL_DAMAGE_SEEDS=20` tries so many seeds of each kind; a failure names its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from engine.aggregates.catalog import ALL_DECIDERS
from engine.application import Application
from engine.archive.keeper import Keeper, Policy
from engine.clock import SystemClock
from tests.crash.test_damage import damage
from tests.support.engine import Engine, running_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

SEEDS = int(os.environ.get("ISHMAEL_DAMAGE_SEEDS", "1"))
KINDS = {
    "segment": "archive/*.segment",
    "snapshot": "archive/*.states",
    "blob": "content/sha256/*",
    "note of a layer": "layers/*/meta.json",
    "read-write layer": "rootfs/*/lowers",
    "container": "containers/*/*",
    "journal": "supervisor/exits/*",
    "storage driver": "storage-driver",
    "engine id": "engine-id",
    "key": "keys.db",
}
TOLD = {"segment": "is damaged", "key": "keys.db", "storage driver": "storage-driver is damaged"}
"""What is told of kinds whose loss matters, where it shows at a start."""
READS = ("/_ping", "/info", "/containers/json?all=1", "/images/json?all=1", "/networks", "/volumes", "/system/df")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        engine.cli("run", "--name", "done", "-e", "A=B", "busybox", "echo", "hello")
        engine.cli("network", "create", "here")
        engine.cli("run", "-d", "--name", "late", "--network", "here", "busybox", "sh", "-c", "sleep 1; exit 7")
        engine.kill()
        engine.wait_for(lambda: list((engine.data_root / "supervisor" / "exits").glob("*")))
        engine.end_supervisor()
        trio.run(seal, engine.data_root)
        copy(engine.data_root, engine.root / "whole")
        yield engine
        restore(engine)
        engine.start()


async def seal(root: Path) -> None:
    """Old history goes to an archive, as it does after some ten thousand events."""
    log = Application(root, deciders=ALL_DECIDERS, clock=SystemClock())
    async with log.running():
        await Keeper(log, root / "events.db", Policy(kept_events=10, segment_events=15), SystemClock()).look()


def copy(root: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", f"{root}/.", str(to)], check=True)


def restore(engine: Engine) -> None:
    engine.end_supervisor()  # it has read the journal
    subprocess.run(["find", str(engine.data_root), "-mindepth", "1", "-delete"], check=True)
    copy(engine.root / "whole", engine.data_root)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_starts_whatever_file_is_damaged(engine: Engine, kind: str, seed: int) -> None:
    chance = random.Random(f"{kind}/{seed}")
    restore(engine)
    path = chance.choice(sorted(engine.data_root.glob(KINDS[kind])))
    done = damage(path, chance)
    begun = len(engine.log.read_text())
    try:
        for _ in range(2):
            engine.start()
            use(engine, kind, done)
            engine.stop()
        told = engine.log.read_text()[begun:]
        assert "Traceback" not in told, (done, told[-3000:])
        assert TOLD.get(kind, "") in told or "emptied" in done or "cut to 0" in done, (done, told)
    except BaseException:
        print(done, engine.log.read_text()[begun:][-3000:])
        if engine.process is not None:
            engine.kill()
        engine.end_supervisor()
        raise


def use(engine: Engine, kind: str, done: str) -> None:
    for path in READS:
        status, body = engine.request("GET", path)
        assert status == 200, (done, path, body)
    names = {row["Names"][0] for row in engine.json("/containers/json?all=1")}
    read_only = engine.request("POST", "/volumes/create", {"Name": "after"})[0] == 503
    if read_only:
        assert "is damaged behind position" in " ".join(engine.json("/info")["Warnings"]), done
        return
    assert {"/done", "/late"} <= names, done
    for path in ("/containers/done/json", "/containers/late/json", "/images/busybox/json", "/networks/here"):
        in_words(engine, done, "GET", path)
    status, answer = engine.request("GET", "/containers/late/json")
    if status == 200:
        code = json.loads(answer)["State"]["ExitCode"]
        assert code == 7 or (kind == "journal" and code == 255), (done, code)
    else:
        assert kind == "key" and b"is erased" in answer, (done, answer)
    in_words(engine, done, "GET", "/containers/done/logs?stdout=1&stderr=1")
    in_words(engine, done, "POST", "/containers/done/start")
    in_words(engine, done, "POST", "/containers/done/wait")
    in_words(engine, done, "POST", "/containers/create?name=new", {"Image": "busybox", "Cmd": ["true"]})
    in_words(engine, done, "POST", "/containers/new/start")
    in_words(engine, done, "DELETE", "/containers/new?force=1")


def in_words(engine: Engine, done: str, method: str, path: str, body: object = None) -> None:
    """Granted, or refused in a sentence that is no bug's."""
    status, answer = engine.request(method, path, body)
    assert status < 400 or "message" in json.loads(answer), (done, path, status, answer)
    assert b"internal error" not in answer and b"Traceback" not in answer, (done, path, status, answer)
