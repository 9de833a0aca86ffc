"""`docker top`: the host's `ps`, narrowed to a container's processes.

The columns are whatever the user's arguments make `ps` print; only the PID column is needed. Source: moby
daemon/top_unix.go.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Sequence
from typing import Any

import trio

from engine.errors import Fault, PortError

TIMEOUT_S = 10.0
_RENAMED = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)")
"""A column that another one's header would be taken for: `-o comm=PID`."""


class ProcessTable:
    """The ProcessTable port."""

    async def rows(self, arguments: str, pids: Sequence[int]) -> dict[str, Any]:
        """{"Titles": [...], "Processes": [[...], ...]}. Raises PortError for arguments that `ps` refuses, or that leave
        the PID column out."""
        for column, header in _RENAMED.findall(arguments):
            if column != "pid":
                raise PortError("top", f'specifying "{column}={header}" is not allowed')
        words = arguments.split(" ")
        done = await _ps([*words, "-q" + ",".join(map(str, pids))]) if pids else None
        if done is None or done.returncode:
            done = await _ps(words)  # some options (f, for one) cannot be used with -q; the filter is what counts
        if done.returncode:
            complaint = done.stderr.decode(errors="replace").split("\n")[0]
            raise PortError("top", f"ps: {complaint or f'exit status {done.returncode}'}")
        return table(done.stdout.decode(errors="replace"), pids)


async def _ps(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        with trio.fail_after(TIMEOUT_S):
            return await trio.run_process(["ps", *words], capture_stdout=True, capture_stderr=True, check=False)
    except FileNotFoundError as error:
        raise PortError("top", 'ps: exec: "ps": executable file not found in $PATH', fault=Fault.SYSTEM) from error
    except trio.TooSlowError as error:
        raise PortError("top", "ps: it did not answer in time") from error


def table(output: str, pids: Collection[int]) -> dict[str, Any]:
    """Split ps output into titles and the rows of `pids`. What is left over at a line's end belongs to the last column;
    lines of threads (`-` for a number, with `ps m`) go with the process above them."""
    lines = output.split("\n")
    titles = lines[0].split()
    if "PID" not in titles:
        raise PortError("top", "Couldn't find PID field in ps output")
    index, last = titles.index("PID"), len(titles) - 1
    rows: list[list[str]] = []
    ours = False
    for line in lines[1:]:
        fields = line.split()
        if len(fields) <= max(index, last - 1):
            continue
        if fields[index] != "-":
            if not fields[index].isdecimal():
                raise PortError("top", f"Unexpected pid '{fields[index]}'")
            ours = int(fields[index]) in pids
        if ours:
            rows.append([*fields[:last], " ".join(fields[last:])])
    return {"Titles": titles, "Processes": rows}
