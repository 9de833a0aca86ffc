"""WIN-09: whatever file under the root directory is cut or garbled, the engine starts, and says what is damaged.

`ISHMAEL_DAMAGE_SEEDS=100 pytest tests/crash/test_damage.py` tries more seeds; a failure names its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, running_engine

pytestmark = pytest.mark.root

SEEDS = int(os.environ.get("ISHMAEL_DAMAGE_SEEDS", "10"))
FILES = ("events.db", "views.db", "views-events.db", "keys.db", "engine-id")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        engine.cli("network", "create", "here")
        engine.cli("volume", "create", "here")
        for number in range(3):
            engine.cli("run", "-d", "--name", f"c{number}", "-e", "A=B", "--network", "here", "busybox", "true")
            engine.cli("wait", f"c{number}")
        engine.stop()
        whole = engine.root / "whole"
        shutil.copytree(engine.data_root, whole, symlinks=True)
        yield engine
        restore(engine)
        if engine.process is None:
            engine.start()


def restore(engine: Engine) -> None:
    """The files as they were. Layers and volumes are left alone: nothing here damages them."""
    for name in FILES:
        for suffix in ("", "-wal", "-shm"):
            (engine.data_root / f"{name}{suffix}").unlink(missing_ok=True)
    for path in engine.data_root.glob("*.damaged-*"):
        path.unlink()
    for name in FILES:
        shutil.copy2(engine.root / "whole" / name, engine.data_root / name)


def damage(path: Path, chance: random.Random) -> str:
    """Cut it, overwrite a piece, or empty it; what was done."""
    data = bytearray(path.read_bytes())
    match chance.choice(("cut", "garble", "zeros", "empty")):
        case "cut":
            del data[chance.randrange(len(data)) :]
            done = f"cut to {len(data)}"
        case "empty":
            data.clear()
            done = "emptied"
        case way:
            start, length = chance.randrange(len(data)), chance.choice((1, 64, 4096, 20000))
            length = min(length, len(data) - start)
            data[start : start + length] = chance.randbytes(length) if way == "garble" else bytes(length)
            done = f"{way} {length} at {start}"
    path.write_bytes(data)
    return f"{path.name} {done}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_engine_starts_whatever_file_is_damaged(engine: Engine, seed: int) -> None:
    restore(engine)
    chance = random.Random(seed)
    # The log most often: it is the one file that nothing can make anew.
    name = chance.choice((*FILES, "events.db", "events.db"))
    done = damage(engine.data_root / name, chance)
    if chance.random() < 0.5:
        (engine.data_root / "views.db").unlink()
        done += ", views.db gone"
    begun = len(engine.log.read_text())
    try:
        engine.start()
        for path in ("/_ping", "/containers/json?all=1", "/networks", "/volumes", "/images/json", "/info"):
            status, body = engine.request("GET", path)
            assert status == 200, (done, path, body)
        until = f"{time.time():.3f}"
        assert engine.request("GET", f"/events?since=1&until={until}")[0] == 200, done
        status, body = engine.request("POST", "/volumes/create", {"Name": f"after-{seed}"})
        told = engine.log.read_text()[begun:]
        if status != 201:
            assert status == 503, (done, status, body)
            assert "damaged behind position" in json.loads(body)["message"], done
            assert "read only: the log in" in told, done
        assert "Traceback" not in told, (done, told[-3000:])
        engine.stop()
    except BaseException:
        print(done, engine.log.read_text()[begun:][-3000:])
        if engine.process is not None:
            engine.kill()
        raise


def test_what_is_whole_of_a_damaged_log_is_served(engine: Engine) -> None:
    """One event in the middle is changed and the views are gone: everything before it can be read, nothing written."""
    restore(engine)
    (engine.data_root / "views.db").unlink()
    with sqlite3.connect(engine.data_root / "events.db") as database:
        query = "SELECT rowid FROM stored_events WHERE topic LIKE 'container.created%' ORDER BY rowid LIMIT 1 OFFSET 1"
        (position,) = database.execute(query).fetchone()
        database.execute("UPDATE stored_events SET state=x'00' WHERE rowid=?", (position,))
    database.close()
    before = (engine.data_root / "events.db").read_bytes()
    engine.start()
    assert len(engine.json("/containers/json?all=1")) in (1, 2)
    assert "here" in {network["Name"] for network in engine.json("/networks")}
    status, body = engine.request("DELETE", "/networks/here")
    assert status == 503
    assert "`replay verify`" in json.loads(body)["message"]
    (told,) = (words for words in engine.json("/info")["Warnings"] if "damaged behind position" in words)
    assert json.loads(body)["message"] in told
    assert told in engine.cli("info", check=False).stderr
    whole = int(told.partition("behind position ")[2].partition(":")[0])
    assert whole < position
    for moment in (f"@{whole}", f"{time.time():.3f}"):
        then, now = (engine.json(f"/containers/json?all=1{at}") for at in (f"&at={moment}", ""))
        assert [(row["Id"], row["State"]) for row in then] == [(row["Id"], row["State"]) for row in now]
    assert engine.json("/containers/json?all=1&at=@1") == []
    status, body = engine.request("GET", f"/containers/json?at=@{position}")
    assert status == 400
    assert f"has not come yet: the log ends at @{whole}" in json.loads(body)["message"]
    engine.restart()
    assert engine.request("GET", "/_ping")[0] == 200
    engine.stop()
    assert (engine.data_root / "events.db").read_bytes() == before, "nobody writes to a damaged log"


def test_an_emptied_log_does_not_begin_a_new_history(engine: Engine) -> None:
    """What the old one owned would be nobody's, and cleared away."""
    restore(engine)
    (engine.data_root / "events.db").write_bytes(b"")
    engine.start()
    status, body = engine.request("POST", "/volumes/create", {"Name": "new"})
    assert status == 503
    assert "it is empty" in json.loads(body)["message"]
    engine.stop()
