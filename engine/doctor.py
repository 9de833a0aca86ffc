"""`ishmaeld doctor`: how log and world differ, and with `--repair` no longer.

Owns: asking an engine that runs, or examining one that does not, and what a person reads of it. Finding and mending are
the engine's (docs/design/drift.md). It takes the flags of the engine it is about.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import socket
import sys
from collections.abc import Sequence

import msgspec

from engine import options
from engine.aggregates.values.drift import Outcome
from engine.config import ConfigError, DaemonConfig
from engine.errors import PortError

COMMAND = "doctor"
WELL, ILL, UNKNOWN = 0, 1, 2
"""Exit statuses: nothing differs any more, something does, nobody could tell."""
ANSWER_S = 120.0


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    command = options.parser()
    command.prog = f"ishmaeld {COMMAND}"
    command.description = "List every difference between the log and the kernel."
    command.add_argument("--repair", action="store_true", default=False, help="make the kernel as the log says")
    command.add_argument("--json", action="store_true", default=False, help="one JSON array instead of sentences")
    given = command.parse_args(arguments)
    try:
        config = options.load(given)
        outcomes = examine(config, repair=given.repair)
    except (ConfigError, PortError, OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        print(error, file=sys.stderr)
        return UNKNOWN
    print(report(outcomes, given))
    return ILL if any(outcome.error != "" for outcome in outcomes) else WELL


def examine(config: DaemonConfig, *, repair: bool) -> tuple[Outcome, ...]:
    """Of the engine of this configuration, whether it runs or not."""
    if _runs(config.data_root):
        return _ask(config, repair=repair)
    import trio  # here: asking a running engine needs neither trio nor the engine

    from engine import bootstrap

    return trio.run(bootstrap.examine, config, repair)


def report(outcomes: Sequence[Outcome], given: argparse.Namespace) -> str:
    if given.json:
        return msgspec.json.encode(outcomes).decode()
    if not outcomes:
        return "log and kernel agree"
    left = sum(outcome.error != "" for outcome in outcomes)
    advice = f"{len(outcomes) - left} mended" if given.repair else "--repair mends what can be mended"
    summary = f"{len(outcomes)} difference{'s' if len(outcomes) > 1 else ''}; {advice}"
    return "\n".join([*(outcome.sentence for outcome in outcomes), summary])


def _runs(data_root: str) -> bool:
    """Whether an engine holds the data root. Raises OSError when there is none."""
    fd = os.open(f"{data_root}/lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _ask(config: DaemonConfig, *, repair: bool) -> tuple[Outcome, ...]:
    place = next((host.removeprefix("unix://") for host in config.hosts if host.startswith("unix://")), "")
    if not place:
        raise ConfigError("the engine runs, and listens on no unix socket: name it by -H unix://...")
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_S)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(ANSWER_S)
        connection.sock.connect(place)
        connection.request(*(("POST", "/drift/repair") if repair else ("GET", "/drift")))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise PortError(COMMAND, body.decode(errors="replace").strip())
    return msgspec.json.decode(body, type=tuple[Outcome, ...])
