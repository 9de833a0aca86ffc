"""Random calls on a handful of containers, to the engine and to a model of Docker side by side: the same answers, the
same states, the same events, whatever the order, across restarts of the engine.

`ISHMAEL_MODEL_RUNS` says how many runs of 50 steps; a few short ones are in every run of the suite.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.support.engine import Engine, running_engine
from tests.support.model import ANY, BUILTIN, Container, Model, program

RUNS = int(os.environ.get("ISHMAEL_MODEL_RUNS", "0"))
pytestmark = [pytest.mark.root, pytest.mark.timeout(0 if RUNS else 300)]

NAMES = ("web", "sql", "job", "app")
"""None of hexadecimal digits alone: that would find a container by its id."""
NETWORKS = ("front", "back")
POLICIES = (("no", 0), ("no", 0), ("always", 0), ("unless-stopped", 0), ("on-failure", 1), ("on-failure", 0))
names, networks, policies = st.sampled_from(NAMES), st.sampled_from(NETWORKS), st.sampled_from(POLICIES)
codes = st.sampled_from((0, 1, 7, 42))
someone = st.integers(0, 19)
"""Mostly a container that exists, by its place; sometimes any name."""


class SideBySide(RuleBasedStateMachine):
    """Each rule makes one call to both and compares the answers; then everything visible is compared."""

    engine: ClassVar[Engine]
    keys: ClassVar[Iterator[int]] = itertools.count()
    runs: ClassVar[int] = 0
    calls: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        clear(self.engine)
        type(self).runs += 1
        self.model = Model()
        self.ids: dict[str, str] = {}
        self.since = self.moment()
        self.seen: dict[str, int] = {}

    def moment(self) -> str:
        return str(self.engine.json("/info")["SystemTime"])

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, expected: int, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.engine.request(method, path, body)
        type(self).calls += 1
        assert status == expected, f"{method} {path} {body or ''}: {status}, not {expected}: {answer.decode()}"
        return json.loads(answer) if answer and answer[:1] in b"[{" else None

    def until(self, fact: Callable[[], object], what: str) -> None:
        try:
            self.engine.wait_for(fact, timeout_s=30)
        except AssertionError as error:
            raise AssertionError(f"{what} did not come true") from error

    def inspect(self, key: str) -> Any:
        status, answer = self.engine.request("GET", f"/containers/{self.ids[key]}/json")
        return json.loads(answer) if status == 200 else None

    def pick(self, who: int) -> str:
        existing = sorted(c.name for c in self.model.containers.values())
        return existing[who % len(existing)] if existing and who < 17 else NAMES[who % len(NAMES)]

    def call(self, expected: int, verb: str, name: str, query: str = "") -> None:
        self.ask(expected, "POST", f"/containers/{name}/{verb}{query}")
        self.compare()

    # -- rules: existence ----------------------------------------------------------------------------------------------

    @rule(
        name=names, policy=policies, auto_remove=st.sampled_from((False, False, True)), deaf=st.booleans(),
        mode=st.sampled_from(("bridge", "bridge", "none", "host", *NETWORKS, "container:")), donor=names,
    )  # fmt: skip
    def create(
        self, name: str, policy: tuple[str, int], auto_remove: bool, deaf: bool, mode: str, donor: str
    ) -> None:
        key = str(next(self.keys))
        given = self.model.named(donor)
        if mode == "container:":
            if given is None:
                return
            mode = f"container:{given.key}"
        container = Container(
            key, name, mode, policy=policy[0], retries=policy[1], auto_remove=auto_remove, ignores_term=deaf
        )
        kind, _, donor_key = mode.partition(":")
        body = {
            "Image": "busybox",
            "Cmd": program(ignores_term=deaf),
            "HostConfig": {
                "NetworkMode": f"container:{self.ids[donor_key]}" if donor_key else kind,
                "AutoRemove": auto_remove,
                "RestartPolicy": {"Name": policy[0], "MaximumRetryCount": policy[1]},
            },
        }
        made = self.ask(self.model.create(container), "POST", f"/containers/create?name={name}", body)
        if key in self.model.containers:
            self.ids[key] = made["Id"]
        self.compare()

    @rule(who=someone, force=st.booleans())
    def remove(self, who: int, force: bool) -> None:
        name = self.pick(who)
        self.ask(self.model.remove(name, force=force), "DELETE", f"/containers/{name}?force={int(force)}")
        self.compare()

    @rule(seldom=st.integers(0, 4))
    def prune(self, seldom: int) -> None:
        if seldom:
            return
        gone = {self.ids[key] for key in self.model.prune()}
        assert set(self.ask(200, "POST", "/containers/prune")["ContainersDeleted"] or ()) == gone
        self.compare()

    @rule(who=someone, new=names)
    def rename(self, who: int, new: str) -> None:
        name = self.pick(who)
        self.call(self.model.rename(name, new), "rename", name, f"?name={new}")

    @rule(who=someone, policy=policies)
    def update(self, who: int, policy: tuple[str, int]) -> None:
        name = self.pick(who)
        body = {"RestartPolicy": {"Name": policy[0], "MaximumRetryCount": policy[1]}}
        self.ask(self.model.update(name, *policy), "POST", f"/containers/{name}/update", body)
        self.compare()

    # -- rules: running ------------------------------------------------------------------------------------------------

    @rule(who=someone)
    def start(self, who: int) -> None:
        name = self.pick(who)
        self.call(self.model.start(name), "start", name)

    @rule(who=someone)
    def start_too(self, who: int) -> None:
        """Twice as likely as the others: nothing happens to what does not run."""
        name = self.pick(who)
        self.call(self.model.start(name), "start", name)

    @rule(who=someone)
    def stop(self, who: int) -> None:
        name = self.pick(who)
        container = self.model.named(name)
        deaf = container is not None and container.ignores_term
        self.call(self.model.stop(name), "stop", name, f"?t={0 if deaf else 20}")

    @rule(who=someone)
    def restart(self, who: int) -> None:
        name = self.pick(who)
        container = self.model.named(name)
        deaf = container is not None and container.ignores_term
        self.call(self.model.restart(name), "restart", name, f"?t={0 if deaf else 20}")

    @rule(who=someone, signal=st.sampled_from((("KILL", 9), ("TERM", 15), ("HUP", 1))))
    def kill(self, who: int, signal: tuple[str, int]) -> None:
        name = self.pick(who)
        self.call(self.model.kill(name, signal[1]), "kill", name, f"?signal={signal[0]}")

    @rule(who=someone)
    def pause(self, who: int) -> None:
        name = self.pick(who)
        self.call(self.model.pause(name), "pause", name)

    @rule(who=someone)
    def unpause(self, who: int) -> None:
        name = self.pick(who)
        self.call(self.model.unpause(name), "unpause", name)

    @rule(who=someone, code=codes)
    def exits(self, who: int, code: int) -> None:
        name = self.pick(who)
        container = self.model.named(name)
        if container is None or container.status != "running" or container.restart_count >= 3:
            return  # A policy's patience doubles: three restarts take 0.7 s.
        self.execute(name, f"echo {code} > /dev/shm/code; kill -USR1 1", wait=False)
        self.model.ends_by_itself(name, code)
        self.compare()

    @rule(who=someone, code=codes)
    def exec(self, who: int, code: int) -> None:
        name = self.pick(who)
        expected = self.model.exec(name)
        if expected != 201:
            self.ask(expected, "POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
        else:
            assert self.execute(name, f"exit {code}") == code
        self.compare()

    def execute(self, name: str, script: str, *, wait: bool = True) -> int:
        """The exit code of a command inside."""
        made = self.ask(201, "POST", f"/containers/{name}/exec", {"Cmd": ["sh", "-c", script]})
        self.ask(200, "POST", f"/exec/{made['Id']}/start", {"Detach": True})
        if not wait:
            return 0
        document: dict[str, Any] = {}

        def ended() -> bool:
            document.update(self.ask(200, "GET", f"/exec/{made['Id']}/json"))
            return not document["Running"]

        self.until(ended, f"the end of an exec in {name}")
        return int(document["ExitCode"])

    @rule(who=someone)
    def wait(self, who: int) -> None:
        name = self.pick(who)
        code = self.model.wait(name)
        if code is not None:
            assert self.ask(200, "POST", f"/containers/{name}/wait")["StatusCode"] == code

    @rule(hard=st.booleans())
    @precondition(lambda self: any(c.running for c in self.model.containers.values()))
    def engine_restarts(self, hard: bool) -> None:
        self.engine.kill() if hard else self.engine.stop()
        self.engine.start()
        self.model.daemon_restarts()
        self.compare()

    # -- rules: networks -----------------------------------------------------------------------------------------------

    @rule(network=networks)
    def create_network(self, network: str) -> None:
        self.ask(self.model.create_network(network), "POST", "/networks/create", {"Name": network})

    @rule(network=networks)
    def remove_network(self, network: str) -> None:
        self.ask(self.model.remove_network(network), "DELETE", f"/networks/{network}")

    @rule(network=networks, who=someone)
    def connect(self, network: str, who: int) -> None:
        name = self.pick(who)
        self.ask(self.model.connect(network, name), "POST", f"/networks/{network}/connect", {"Container": name})
        self.compare()

    @rule(network=networks, who=someone)
    def disconnect(self, network: str, who: int) -> None:
        name = self.pick(who)
        self.ask(self.model.disconnect(network, name), "POST", f"/networks/{network}/disconnect", {"Container": name})
        self.compare()

    # -- comparing -----------------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """What is on its way (an exit after a signal, a policy's restart, a removal) is waited for; then all must be
        as the model says, and stay so."""
        for key, container in self.model.containers.items():
            self.until(lambda key=key, c=container: self.shown(key) == expected(c), f"{container} ({self.shown(key)})")
            if container.status == "running":
                self.ready(container)
        for key in self.model.gone:
            if key not in self.seen:
                self.until(lambda key=key: self.inspect(key) is None, f"the removal of {self.model.gone[key]}")
        self.compare_lists()
        self.compare_events()

    def shown(self, key: str) -> dict[str, Any] | None:
        document = self.inspect(key)
        if document is None:
            return None
        state = document["State"]
        return {
            "name": document["Name"],
            "status": state["Status"],
            "flags": (state["Running"], state["Paused"], state["Restarting"], state["Dead"], state["Pid"] > 0),
            "code": state["ExitCode"],
            "restarts": document["RestartCount"],
            "networks": set(document["NetworkSettings"]["Networks"]),
            "been on": {n for n, on in document["NetworkSettings"]["Networks"].items() if on["NetworkID"]},
            "policy": document["HostConfig"]["RestartPolicy"],
        }

    def ready(self, container: Container) -> None:
        """The program has set its traps: before that a signal would be lost on a first process."""
        run = (container.key, container.events.count("start"))
        if run not in self.ready_runs:
            self.until(
                lambda: self.execute(container.name, "test -f /dev/shm/ready") == 0, f"{container} to be ready"
            )
            self.ready_runs.add(run)

    ready_runs: ClassVar[set[tuple[str, int]]] = set()

    def compare_lists(self) -> None:
        def listed(**filters: list[str]) -> set[str]:
            query = f"?all=1&filters={quote(json.dumps(filters))}" if filters else "?all=1"
            return {row["Id"] for row in self.engine.json(f"/containers/json{query}")}

        every = self.model.containers.values()
        assert listed() == {self.ids[c.key] for c in every}
        assert {row["Id"] for row in self.engine.json("/containers/json")} == {
            self.ids[c.key] for c in every if c.running
        }
        for status in ("created", "running", "paused", "exited"):
            assert listed(status=[status]) == {self.ids[c.key] for c in every if c.status == status}, status
        assert listed(exited=["0", "137"]) == {
            self.ids[c.key] for c in every if c.status == "exited" and c.exit_code in (0, 137)
        }

    def compare_events(self) -> None:
        """All events of each container, in order."""
        query = f"/events?since={self.since}&until={self.moment()}&filters={quote(json.dumps({'type': ['container']}))}"
        status, answer = self.engine.request("GET", query)
        assert status == 200, answer
        told: dict[str, list[str]] = {}
        for line in answer.decode().splitlines():
            message = json.loads(line)
            action, attributes = message["Action"], message["Actor"]["Attributes"]
            if not action.startswith("exec_"):
                detail = attributes.get("exitCode" if action == "die" else "signal", "")
                told.setdefault(message["Actor"]["ID"], []).append(f"{action} {detail}".strip())
        for key, container in {**self.model.gone, **self.model.containers}.items():
            engine, model = told.get(self.ids[key], []), container.events
            if container.thawed:
                engine, model = without_thaws(engine), without_thaws(model)
            assert engine == model, f"{container}: events {engine}"

    def teardown(self) -> None:
        if RUNS:
            print(f"run {self.runs}: {self.calls} calls so far", flush=True)
        assert "Traceback" not in self.engine.log.read_text(), self.engine.log.read_text()[-6000:]


def without_thaws(events: list[str]) -> list[str]:
    return [event for event in events if event not in ("unpause", "pause")]


def expected(container: Container) -> dict[str, Any]:
    running, paused = container.running, container.status == "paused"
    return {
        "name": f"/{container.name}",
        "status": container.status,
        "flags": (running, paused, False, False, running),
        "code": container.exit_code,
        "restarts": container.restart_count,
        "networks": set(container.networks),
        "been on": {network for network, which in container.networks.items() if which != ANY},
        "policy": {"Name": container.policy, "MaximumRetryCount": container.retries},
    }


def clear(engine: Engine) -> None:
    for row in engine.json("/containers/json?all=1"):
        engine.request("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    engine.wait_for(lambda: not engine.json("/containers/json?all=1"))
    for network in engine.json("/networks"):
        if network["Name"] not in BUILTIN:
            assert engine.request("DELETE", f"/networks/{network['Id']}")[0] == 204


def test_the_engine_does_what_the_model_does() -> None:
    """CTR-01 to CTR-21, CTR-28, CTR-29, CTR-35, EXE-04, NET-05, EVT-05, SYS-10."""
    with running_engine() as engine:
        SideBySide.engine = engine
        phases = (Phase.generate,) if RUNS else (Phase.explicit, Phase.generate, Phase.shrink)
        run_state_machine_as_test(
            SideBySide,
            settings=settings(
                max_examples=RUNS or 3,
                stateful_step_count=50 if RUNS else 25,
                deadline=None,
                derandomize=not RUNS,
                phases=phases,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                database=None,
            ),
        )
        print(f"\n{SideBySide.runs} runs, {SideBySide.calls} calls, 0 differences")
