"""What `docker stats` of many containers costs. As root: `python -m tests.bench.bench_stats [containers] [seconds]`.

Every container sleeps and has one stream of its own. Told is the CPU time of the engine, the supervisor and its
copier, with and without the streams, as a share of one core, and how many documents came.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from pathlib import Path

from tests.support.engine import Engine, running_engine

CONTAINERS, SECONDS = 100, 30


def main(containers: int, seconds: int) -> None:
    with running_engine() as engine:
        names = [f"sleeper-{number}" for number in range(containers)]
        for name in names:
            engine.cli("run", "-d", "--name", name, "busybox", "sleep", "100000")
        ours = Ours(engine)
        idle = ours.spent(seconds)
        reader = Reader([stream(engine, name) for name in names])
        ours.spent(3)
        before = reader.documents
        busy = ours.spent(seconds)
        read = reader.documents - before
        print(f"{containers} containers, {seconds} s on {os.cpu_count()} CPUs, {os.uname().release}")
        print(f"without streams {100 * idle / seconds:5.2f} % of one core")
        print(f"with streams    {100 * busy / seconds:5.2f} % of one core")
        print(f"{read} documents, {1e6 * (busy - idle) / read:.0f} us for each")


class Ours:
    """The engine, its supervisors and their helpers, not the containers. Helpers come and go while they are watched: a
    new one is looked for at each look, and one that is gone counts what it had used at the last."""

    LOOK_S = 0.5

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ticks: dict[int, int] = {}

    def spent(self, seconds: float) -> float:
        """CPU seconds used from now until then."""
        self._look()
        before = sum(self._ticks.values())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(self.LOOK_S, max(0.0, end - time.monotonic())))
            self._look()
        return (sum(self._ticks.values()) - before) / os.sysconf("SC_CLK_TCK")

    def _look(self) -> None:
        assert self._engine.process is not None
        waiting = [self._engine.process.pid, *self._engine.supervisors()]
        while waiting:
            pid = waiting.pop()
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                program = Path(f"/proc/{pid}/cmdline").read_text()
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
                children = " ".join((task / "children").read_text() for task in tasks)
            except OSError:
                continue
            if "sleep" in program:
                continue
            self._ticks[pid] = int(fields[11]) + int(fields[12])
            waiting += [int(word) for word in children.split()]


def stream(engine: Engine, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(engine.socket))
    sock.sendall(f"GET /containers/{name}/stats HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
    return sock


class Reader:
    """Reads every stream and counts; its thread lives as long as the bench."""

    def __init__(self, streams: list[socket.socket]) -> None:
        self.documents = 0
        self._selector = selectors.DefaultSelector()
        for sock in streams:
            self._selector.register(sock, selectors.EVENT_READ)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            for key, _ in self._selector.select():
                data = os.read(key.fd, 1 << 16)
                if not data:
                    self._selector.unregister(key.fileobj)
                self.documents += data.count(b"\n{")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(*(numbers + [CONTAINERS, SECONDS][len(numbers) :]))
