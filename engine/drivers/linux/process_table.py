"""`docker top`: the host's `ps`, narrowed to a container's processes.

The columns are whatever the user's arguments make `ps` print; only the PID column is needed. Source: moby
daemon/top_unix.go.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

import trio

from engine.errors import Fault, PortError

TIMEOUT_S = 10.0


class ProcessTable:
    """The ProcessTable port."""

    async def rows(self, arguments: str, pids: Sequence[int]) -> dict[str, Any]:
        """{"Titles": [...], "Processes": [[...], ...]}. Raises PortError for arguments that `ps` refuses, or that leave
        the PID column out."""
        try:
            words = shlex.split(arguments)
        except ValueError as error:
            raise PortError("top", f"invalid ps_args: {error}", fault=Fault.INVALID) from error
        if any("pid" in word and "=" in word for word in words if word.startswith(("-o", "o", "pid"))):
            raise PortError(
                "top", 'specifying "pid=" to rename the PID column is not allowed', fault=Fault.INVALID
            )
        wanted = ",".join(map(str, pids)) or "0"
        # `-q` limits the output where the arguments allow it; the filter below is what counts.
        output = await self._ps([*words, "-q", wanted]) or await self._ps(words)
        if output is None:
            raise PortError("top", f"ps: error running ps {arguments}", fault=Fault.SYSTEM)
        return table(output, frozenset(pids))

    async def _ps(self, words: list[str]) -> str | None:
        with trio.move_on_after(TIMEOUT_S):
            done = await trio.run_process(
                ["ps", *words], capture_stdout=True, stderr=subprocess.DEVNULL, check=False
            )
            if done.returncode == 0:
                return str(done.stdout.decode(errors="replace"))
        return None


def table(output: str, pids: frozenset[int]) -> dict[str, Any]:
    """Split ps output into titles and the rows of `pids`; the last column keeps its spaces."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise PortError("top", "Couldn't find PID field in ps output", fault=Fault.SYSTEM)
    index = titles.index("PID")
    rows = [fields for line in lines[1:] if len(fields := line.split(None, len(titles) - 1)) > index]
    return {
        "Titles": titles,
        "Processes": [fields for fields in rows if fields[index].isdecimal() and int(fields[index]) in pids],
    }
