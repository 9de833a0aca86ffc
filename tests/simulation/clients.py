"""Clients of a simulated engine: each does one thing after the other, chosen at random, all on the same few objects.

Owns: the vocabulary of requests. What an answer may be, whatever happens at the same time, is all that is judged here:
no request is answered with a bug.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from urllib.parse import quote

import trio

from tests.simulation.lives import IMAGE, Answer, Cut, Lives
from tests.simulation.machine import Behaviour

NAMES = ("web", "db", "job", "app", "log")
NETWORKS = ("front", "back")
VOLUMES = ("data", "logs")
POLICIES = ("no", "no", "no", "always", "unless-stopped", "on-failure", "on-failure:2")
REQUEST_S_MAX = 900.0
"""Of virtual time: nothing that a client waits for may take longer, not even beside faults."""
WAIT_S = 20.0
"""How long a client waits for a container that perhaps nobody ends."""
EXPECTED = frozenset({200, 201, 204, 304, 400, 403, 404, 409, 500})


class Client:
    def __init__(self, lives: Lives, random: Random, number: int) -> None:
        self._lives = lives
        self._random = random
        self.number = number
        self.violations: list[str] = []
        self.waiting_for = ""
        self.log: list[str] = []

    async def run(self, steps: int) -> None:
        verbs: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (9, self.create), (12, self.start), (4, self.stop), (4, self.kill), (3, self.restart), (3, self.pause),
            (4, self.unpause), (2, self.rename), (2, self.update), (5, self.remove), (5, self.exec), (2, self.wait),
            (1, self.prune), (2, self.read), (2, self.create_network), (1, self.remove_network), (3, self.connect),
            (2, self.disconnect), (1, self.create_volume), (1, self.remove_volume), (4, self.rest),
        ]  # fmt: skip
        for _ in range(steps):
            verb = self._random.choices([verb for _, verb in verbs], [weight for weight, _ in verbs])[0]
            try:
                await verb()
            except Cut:
                self.log.append("cut")

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Within a deadline; a status that nobody expects, or words of a bug, is a violation."""
        self.waiting_for = f"{method} {path} since {trio.current_time():.3f}"
        patience_s = WAIT_S if "/wait" in path else REQUEST_S_MAX
        with trio.move_on_after(patience_s):
            answer = await self._lives.ask(method, path, body)
            told = f"{trio.current_time():.3f} client {self.number}: {method} {path}: {answer.status}"
            if answer.status >= 400:
                told += f" {answer.body.decode().strip()[:200]}"
            self.log.append(told)
            bug = answer.status == 500 and b"internal error" in answer.body
            if answer.status not in EXPECTED or bug:
                self.violations.append(told)
            self.waiting_for = ""
            return answer
        if "/wait" not in path:  # Who waits for a container that nobody ends waits for ever.
            self.violations.append(f"no answer within {REQUEST_S_MAX:g} s: {self.waiting_for}")
        self.waiting_for = ""
        raise Cut(path)

    # -- containers ----------------------------------------------------------------------------------------------------

    @property
    def some(self) -> str:
        """A container's name, mostly one that exists."""
        known = sorted(self._lives.names)
        return self._random.choice(known if known and self._random.random() < 0.9 else NAMES)

    def behaviour(self) -> Behaviour:
        r = self._random
        return Behaviour(
            after_s=r.choice((None, None, None, 0.0, 0.05, 1.0, 15.0)),
            code=r.choice((0, 0, 1, 3, 42)),
            on_term=r.choice((143, 143, 0, 7, None)),
            linger_s=r.choice((0.0, 0.0, 0.2, 4.0)),
        )

    async def create(self) -> None:
        r = self._random
        words = self.behaviour().words if r.random() < 0.93 else ["nosuchcmd"]
        policy, _, tries = r.choice(POLICIES).partition(":")
        removed = policy == "no" and r.random() < 0.3
        mode = r.choice(("bridge", "bridge", "none", "host", *NETWORKS, f"container:{self.some}"))
        host: dict[str, Any] = {
            "NetworkMode": mode,
            "AutoRemove": removed,
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(tries or 0)},
        }
        if r.random() < 0.4:
            host["Binds"] = [f"{r.choice(VOLUMES)}:/data"]
        body: dict[str, Any] = {"Image": IMAGE, "Cmd": words, "HostConfig": host}
        if r.random() < 0.2:
            body["Volumes"] = {"/anonymous": {}}
        if r.random() < 0.3 and not mode.startswith("container:"):
            body["ExposedPorts"] = {"80/tcp": {}}
            host["PortBindings"] = {"80/tcp": [{"HostPort": r.choice(("", "8080", "8081"))}]}
        if r.random() < 0.15:
            check = Behaviour(after_s=r.choice((0.01, 3.0)), code=r.choice((0, 0, 1))).words
            body["Healthcheck"] = {"Test": ["CMD", *check], "Interval": 10**9, "Timeout": 2 * 10**9, "Retries": 2}
        if r.random() < 0.2 and mode in NETWORKS:
            body["NetworkingConfig"] = {"EndpointsConfig": {mode: {"Aliases": ["alias"]}}}
        name = self._random.choice(NAMES)
        made = await self.ask("POST", f"/containers/create?name={name}", body)
        if made.status in (201, 409):
            self._lives.names.add(name)

    async def start(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/start")

    async def stop(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/stop?t={self._random.choice((0, 1, 5))}")

    async def kill(self) -> None:
        signal = self._random.choice(("", "KILL", "TERM", "HUP", "USR1"))
        await self.ask("POST", f"/containers/{self.some}/kill" + (f"?signal={signal}" if signal else ""))

    async def restart(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/restart?t={self._random.choice((0, 1, 5))}")

    async def pause(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/pause")

    async def unpause(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/unpause")

    async def rename(self) -> None:
        await self.ask("POST", f"/containers/{self.some}/rename?name={self.some}")

    async def update(self) -> None:
        policy, _, tries = self._random.choice(POLICIES).partition(":")
        body = {"Memory": self._random.choice((0, 64 << 20)), "MemorySwap": -1}
        if self._random.random() < 0.7:
            body["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": int(tries or 0)}
        await self.ask("POST", f"/containers/{self.some}/update", body)

    async def remove(self) -> None:
        force, volumes = self._random.choice((0, 1, 1)), self._random.choice((0, 1))
        name = self.some
        gone = await self.ask("DELETE", f"/containers/{name}?force={force}&v={volumes}")
        if gone.status in (204, 404):
            self._lives.names.discard(name)

    async def exec(self) -> None:
        words = self.behaviour().words if self._random.random() < 0.9 else ["nosuchcmd"]
        made = await self.ask("POST", f"/containers/{self.some}/exec", {"Cmd": words})
        if made.status == 201:
            exec_id = made.json["Id"]
            await self.ask("POST", f"/exec/{exec_id}/start", {"Detach": True})
            await self.ask("GET", f"/exec/{exec_id}/json")

    async def wait(self) -> None:
        condition = self._random.choice(("not-running", "next-exit", "removed"))
        await self.ask("POST", f"/containers/{self.some}/wait?condition={condition}")

    async def prune(self) -> None:
        await self.ask("POST", "/containers/prune")

    async def read(self) -> None:
        filters = quote(json.dumps({"status": [self._random.choice(("running", "exited", "paused"))]}))
        await self.ask("GET", self._random.choice(("/containers/json?all=1", f"/containers/json?filters={filters}")))
        await self.ask("GET", f"/containers/{self.some}/json")

    async def rest(self) -> None:
        await trio.sleep(self._random.choice((0.0, 0.01, 0.5, 5.0)) * self._random.random())

    # -- networks and volumes ------------------------------------------------------------------------------------------

    async def create_network(self) -> None:
        body = {"Name": self._random.choice(NETWORKS), "Internal": self._random.random() < 0.2}
        await self.ask("POST", "/networks/create", body)

    async def remove_network(self) -> None:
        await self.ask("DELETE", f"/networks/{self._random.choice(NETWORKS)}")

    async def connect(self) -> None:
        await self.ask("POST", f"/networks/{self._random.choice(NETWORKS)}/connect", {"Container": self.some})

    async def disconnect(self) -> None:
        network = self._random.choice((*NETWORKS, "bridge"))
        force = self._random.random() < 0.3
        await self.ask("POST", f"/networks/{network}/disconnect", {"Container": self.some, "Force": force})

    async def create_volume(self) -> None:
        await self.ask("POST", "/volumes/create", {"Name": self._random.choice(VOLUMES)})

    async def remove_volume(self) -> None:
        await self.ask("DELETE", f"/volumes/{self._random.choice(VOLUMES)}")
