"""What `docker stats` of many containers costs. As root: `python -m tests.bench.bench_stats [containers] [seconds]`.

Every container sleeps and has one stream of its own. Told is the CPU time of the engine, the supervisor and its
copier, with and without the streams, as a share of one core. A process of the bench reads the streams away.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from pathlib import Path

from tests.support.engine import Engine, running_engine

CONTAINERS, SECONDS = 100, 30


def main(containers: int, seconds: int) -> None:
    with running_engine() as engine:
        names = [f"sleeper-{number}" for number in range(containers)]
        for name in names:
            engine.cli("run", "-d", "--name", name, "busybox", "sleep", "100000")
        ours = processes(engine)
        idle = spent(ours, seconds)
        streams = [stream(engine, name) for name in names]
        reader = drain(streams)
        spent(ours, 3)
        busy = spent(ours, seconds)
        os.kill(reader, 15)
        _, status = os.waitpid(reader, 0)
        print(f"{containers} containers, {seconds} s on {os.cpu_count()} CPUs, {os.uname().release}")
        print(f"without streams {100 * idle / seconds:5.2f} % of one core")
        print(f"with streams    {100 * busy / seconds:5.2f} % of one core")
        print(f"for each document {1e6 * (busy - idle) / seconds / containers:5.0f} us")


def processes(engine: Engine) -> list[int]:
    """The engine, its supervisors and their helpers; not the containers."""
    assert engine.process is not None
    found = [engine.process.pid, *engine.supervisors()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in found:
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                program = (entry / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if parent in found and "sleep" not in program:
                found.append(int(entry.name))
    return found


def spent(pids: list[int], seconds: float) -> float:
    """CPU seconds of the processes in that time."""

    def used() -> float:
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return used() - before


def stream(engine: Engine, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(engine.socket))
    sock.sendall(f"GET /containers/{name}/stats HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    return sock


def drain(streams: list[socket.socket]) -> int:
    """A child that reads and forgets."""
    pid = os.fork()
    if pid:
        return pid
    selector = selectors.DefaultSelector()
    for sock in streams:
        selector.register(sock, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            assert os.read(key.fd, 1 << 16)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(*(numbers + [CONTAINERS, SECONDS][len(numbers) :]))
