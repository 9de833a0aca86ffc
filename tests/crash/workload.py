"""What the containers under test do, and how their logs and exit codes are checked against it.

A workload writes numbered lines to both outputs and ends with a known code: whatever a crash loses or repeats shows as
a gap or a repetition. A log may hold several runs; each begins again at 1.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

ENDLESS = 10**9


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """lines: on each output. code: after the last one."""

    lines: int
    code: int = 0

    @property
    def endless(self) -> bool:
        return self.lines == ENDLESS

    @property
    def command(self) -> list[str]:
        """Twenty lines at once, then a rest: about 50 lines a second. SIGTERM ends it at once, with 143."""
        script = (
            f"trap 'exit 143' TERM; i=0; while [ $i -lt {self.lines} ]; do i=$((i+1)); "
            'echo "o $i"; echo "e $i" >&2; [ $((i % 20)) = 0 ] && sleep 0.4; done; '
            f"exit {self.code}"
        )
        return ["sh", "-c", script]


def runs_of(log: Path) -> dict[str, list[int]]:
    """How many lines each run wrote, by stream. Fails on a gap, a repetition, or a line that nobody wrote."""
    runs: dict[str, list[int]] = {"stdout": [], "stderr": []}
    text = log.read_bytes() if log.exists() else b""
    lines = text.split(b"\n")
    for number, raw in enumerate(lines[:-1]):  # behind the last newline: an entry that is being written
        entry = json.loads(raw)
        stream, (mark, count) = entry["stream"], entry["log"].split()
        assert mark == stream[3], f"{log}, line {number}: {entry}"
        lengths = runs[stream]
        if int(count) == 1:
            lengths.append(1)
        else:
            assert lengths and int(count) == lengths[-1] + 1, f"{log}, line {number}: {count} follows {lengths[-1:]}"
            lengths[-1] += 1
    return runs


def check_log(log: Path, workload: Workload, *, ended: bool, cut: bool) -> None:
    """ended: the last run is over, so its lines are all there. cut: somebody may have killed a run before its end."""
    for stream, lengths in runs_of(log).items():
        complete = lengths if ended else lengths[:-1]
        for length in complete:
            assert cut or length == workload.lines, f"{log}: {length} of {workload.lines} lines on {stream}"
        assert not ended or lengths, f"{log}: nothing on {stream}"
