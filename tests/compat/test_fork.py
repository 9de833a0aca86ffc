"""WIN-08: what `replay fork` says of commands is what an engine then makes of the same words, given by the real CLI."""

from __future__ import annotations

import json
import re
import shlex
from socket import gethostname
from typing import Any

from engine.aggregates.catalog import ALL_DECIDERS
from replay.diff import fields_between
from replay.fork.asked import given
from replay.fork.fork import fork
from replay.fork.scene import Beside
from replay.plain import without_defaults
from replay.reader import LogReader
from replay.world import World, world_at
from tests.replay.test_fork import states
from tests.simulation.checkers import CODEC
from tests.support.engine import Engine

COMMANDS = (
    "network create --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.64/26 --label a=b --internal back",
    "network create next",
    "run -d --name web -p 127.0.0.1:8080:80 -p 5300-5301:53-54/udp --network next --network-alias www --restart always "
    "-v site:/srv -v /scratch -m 64m --pids-limit 50 --cpus 0.5 -l a=b -e TOKEN=secret app:v1",
    "run -d --name both --network name=back,alias=api,ip=10.9.0.70 --network next --stop-timeout 3 app:v1 sleep 1001",
    "run -d --name beside --network container:web app:v1",
    "run -d --name linked --network next --link web:site --mount type=bind,source=/tmp,target=/t,readonly app:v1",
    "run -d --name on-host --network host app:v1",
    "run -d --name late -p 127.0.0.1:8080:80 app:v1",
    "create --name ready --network none --hostname box -w /srv -u 1:2 --entrypoint /bin/sleep app:v1 7",
    "network connect --ip 10.9.0.90 --alias second back late",
    "kill web",
    "rm -v web",
    "rename both one",
    "tag app:v1 app:prod",
    "run -d --name web --network next --rm app:prod",
    "rmi app:v1",
    "rmi app:prod",
    "rmi alone:v1",
)
ITS_OWN = frozenset({"pid", "carrier", "env", "hostname", "Hostname", "CgroupnsMode", "ConsoleSize"})
"""What an engine has of its host, of its key store and of its client's terminal."""


def without_ids(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{12}\b", "<id>", text)


def comparable(world: World) -> dict[str, Any]:
    """All that lives, with names for ids, and without times."""
    names = {state.container_id: f"<{state.name}>" for state in world.living("container")}
    names |= {state.network_id: f"<network {state.settings.name}>" for state in world.living("network")}

    def told(value: Any, key: str = "") -> Any:
        if key in ITS_OWN or key.endswith("_at"):
            return None
        if isinstance(value, dict):
            return {named(name): told(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [told(item) for item in value if item != gethostname()]
        return named(value) if isinstance(value, str) else value

    def named(text: str) -> str:
        for identifier, name in names.items():
            text = text.replace(identifier, name).replace(identifier[:12], name)
        return re.sub(r"\b[0-9a-f]{64}\b", "<id>", text)

    found: dict[str, Any] = {}
    for key, value in states(world).items():
        found.setdefault(named(key), []).append(told(value))
    return {key: without_defaults(sorted(each, key=json.dumps)) for key, each in found.items()}


def test_what_fork_says_of_commands_is_what_the_engine_makes_of_them(engine: Engine) -> None:
    engine.cli("create", "--name", "base", "busybox", "true")
    changes = ("EXPOSE 80", "VOLUME /data", 'CMD ["sleep", "1000"]', "ENV A=b", "LABEL version=1", "STOPSIGNAL SIGKILL")
    engine.cli("commit", *(word for change in changes for word in ("-c", change)), "base", "app:v1")
    engine.cli("commit", "-c", "LABEL alone=1", "base", "alone:v1")
    engine.cli("rm", "base")
    with LogReader(engine.data_root / "events.db", CODEC) as reader:
        world = world_at(reader, ALL_DECIDERS, reader.head)
        time_ns = next(reader.newest_first(upto=reader.head)).time_ns
    beside = Beside(engine.data_root)
    wishes = [wish for words in COMMANDS for wish in given(words, time_ns, beside)]
    told = fork(world, wishes, time_ns=time_ns)
    assert not beside.notes

    refused = {}
    for words in COMMANDS:
        ran = engine.cli(*shlex.split(words), check=False)
        if ran.returncode:
            refused[words] = ran.stderr
    assert list(refused) == [each.wish for each in told.refused] == [COMMANDS[7], "rmi app:prod"], refused
    assert all(without_ids(each.message) in without_ids(refused[each.wish]) for each in told.refused)

    with LogReader(engine.data_root / "events.db", CODEC) as reader:
        made = world_at(reader, ALL_DECIDERS, reader.head)
    differences = fields_between(comparable(world), comparable(made))
    assert [(each.path, each.before, each.after) for each in differences] == []
