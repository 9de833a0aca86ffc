"""How long a whole engine takes until it answers, over a long history. As root:
`python -m tests.bench.bench_start FOLDER`, with a folder that `tests.bench.long_history` has made.

The folder's log is copied to an engine of its own, which is started: over the log alone (every view folded), again,
and again without views.db. Told is the time until `docker ps -a` has answered and the CPU time of the engine by then;
then how much memory it has.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.engine import Engine


def main(folder: Path) -> None:
    engine = Engine()
    try:
        engine.data_root.mkdir(parents=True)
        shutil.copy(folder / "events.db", engine.data_root)
        shutil.copytree(folder / "archive", engine.data_root / "archive")
        measured(engine, "over the log alone")
        for _ in range(3):
            measured(engine, "again")
        measured(engine, "without views.db", lambda: gone(engine, "views.db"))
    finally:
        engine.close()


def measured(engine: Engine, what: str, prepare: Callable[[], None] = lambda: None) -> None:
    prepare()
    began = time.monotonic()
    engine.start()
    status, body = engine.request("GET", "/containers/json?all=1")
    wall = time.monotonic() - began
    assert status == 200, body
    assert engine.process is not None
    proc = Path(f"/proc/{engine.process.pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    rss = next(line.split()[1] for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
    print(
        f"{what:<24} {len(json.loads(body)):>6} containers {wall * 1e3:>9,.0f} ms, {cpu * 1e3:>8,.0f} CPU, "
        f"{int(rss) / 1024:,.0f} MiB at most",
        flush=True,
    )
    engine.stop()


def gone(engine: Engine, name: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        (engine.data_root / f"{name}{suffix}").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
