"""Networks and endpoints come and go at random, and the engine is killed meanwhile: no link, rule, address or port is
left over, given twice, or missing.

`ISHMAEL_NETWORKS` says how many networks are made in all (`make crash`: 200, with 500 endpoints); `ISHMAEL_SEED`
repeats a run's choices.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from replay.world import World
from tests.compat.test_doctor import found
from tests.support.audit import containers_of, settled_without_leaks
from tests.support.engine import Engine, running_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

NETWORKS = int(os.environ.get("ISHMAEL_NETWORKS", "16"))
ENDPOINTS = NETWORKS * 5 // 2
CLIENTS = 3
KILLS = max(2, NETWORKS // 20)
POOL = "base=10.64.0.0/12,size=24"
"""Docker's own pools have 31 networks."""
AT_ONCE = 8
"""Networks, and containers, that a client has at a time: the rest is made and removed."""
SLEEP = ["sh", "-c", "trap 'exit 0' TERM; sleep 10000 & wait"]


class Cut(Exception):
    """The engine went away before it answered."""


class Wirer(threading.Thread):
    """Does one thing after another with networks and containers of its own, while `go` is set. made: what the engine
    said was there."""

    def __init__(self, engine: Engine, number: int, seed: str) -> None:
        super().__init__(name=f"wirer {number}", daemon=True)
        self.engine, self.number = engine, number
        self.random = random.Random(f"{seed}/{number}")
        self.go, self.resting, self.quit = threading.Event(), threading.Event(), False
        self.networks: list[str] = []
        self.containers: list[str] = []
        self.made: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        while True:
            self.resting.set()
            self.go.wait()
            if self.quit:
                return
            self.resting.clear()
            try:
                while self.go.is_set():
                    self._step()
            except Cut:
                self.go.clear()
            except AssertionError as error:
                self.failures.append(str(error))
                self.go.clear()

    def _step(self) -> None:
        verbs = [self._connect] * 3 + [self._disconnect, self._leave]
        verbs += [self._network] * (3 if len(self.networks) < AT_ONCE else 0)
        verbs += [self._container] * (3 if len(self.containers) < AT_ONCE else 0)
        verbs += [self._remove_network] * (len(self.networks) // 2) + [self._end] * (len(self.containers) // 2)
        self.random.choice(verbs)()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        try:
            status, answer = self.engine.request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise Cut from error
        assert status < 500, f"{method} {path}: {status} {answer!r}"
        return status, json.loads(answer) if answer else None

    def _network(self) -> None:
        name = f"net-{self.number}-{self.made['network'] + self.made['asked']}"
        self.made["asked"] += 1
        self.networks.append(name)
        six = self.random.random() < 0.3
        status, _ = self.ask("POST", "/networks/create", {"Name": name, "EnableIPv6": six})
        self.made["network"] += status == 201

    def _remove_network(self) -> None:
        name = self.random.choice(self.networks)
        if self.ask("DELETE", f"/networks/{name}")[0] in (204, 404):
            self.networks.remove(name)

    def _container(self) -> None:
        name = f"box-{self.number}-{self.made['container']}"
        self.made["container"] += 1
        self.containers.append(name)
        host: dict[str, Any] = {"NetworkMode": self.random.choice(self.networks or ["bridge"])}
        if self.random.random() < 0.5:
            host["PortBindings"] = {"80/tcp": [{}], "53/udp": [{}]}
        body = {"Image": "busybox", "Cmd": SLEEP, "HostConfig": host}
        if self.ask("POST", f"/containers/create?name={name}", body)[0] == 201:
            status, _ = self.ask("POST", f"/containers/{name}/start")
            self.made["endpoint"] += status == 204

    def _end(self) -> None:
        name = self.random.choice(self.containers)
        if self.ask("DELETE", f"/containers/{name}?force=1&v=1")[0] in (204, 404):
            self.containers.remove(name)

    def _connect(self) -> None:
        if self.networks and self.containers:
            body = {"Container": self.random.choice(self.containers)}
            status, _ = self.ask("POST", f"/networks/{self.random.choice(self.networks)}/connect", body)
            self.made["endpoint"] += status == 200

    def _disconnect(self) -> None:
        self._take_off(force=False)

    def _leave(self) -> None:
        self._take_off(force=True)

    def _take_off(self, *, force: bool) -> None:
        if self.networks and self.containers:
            body = {"Container": self.random.choice(self.containers), "Force": force}
            path = f"/networks/{self.random.choice(self.networks)}/disconnect"
            try:
                status, answer = self.engine.request("POST", path, body)
            except (OSError, http.client.HTTPException) as error:
                raise Cut from error
            # That it is not there is an error of the server to Docker.
            assert status < 500 or b"is not connected" in answer, f"{path}: {status} {answer!r}"

    def clear(self) -> None:
        for name in list(self.containers):
            self.ask("DELETE", f"/containers/{name}?force=1&v=1")
        for name in list(self.networks):
            self.ask("DELETE", f"/networks/{name}")


def given_twice(world: World) -> list[str]:
    """Addresses of one network, MAC addresses of one network, and host ports, that several have."""
    wrong = []
    for network in world.living("network"):
        held = network.endpoints.values()
        for kind in ("ipv4_address", "ipv6_address", "mac_address"):
            counts = Counter(value for each in held if (value := getattr(each, kind)))
            wrong += [f"{value} on {network.settings.name}" for value, count in counts.items() if count > 1]
        gateways = {pool.gateway for pool in network.settings.pools}
        wrong += [f"{each.ipv4_address} is the gateway" for each in held if each.ipv4_address in gateways]
    ports = [port for state in containers_of(world) if state.alive for port in state.ports]
    counts = Counter((port.host_ip, port.protocol, port.host_port) for port in ports)
    return wrong + [f"port {place}" for place, count in counts.items() if count > 1]


def test_nothing_of_a_network_leaks_when_the_engine_is_killed() -> None:
    """NET-38, NET-11, NET-14."""
    seed = os.environ.get("ISHMAEL_SEED") or str(random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    with running_engine("--default-address-pool", POOL) as engine:
        wirers = [Wirer(engine, number, seed) for number in range(CLIENTS)]
        for wirer in wirers:
            wirer.start()
        kills = 0
        try:
            while kills < KILLS or _made(wirers, "network") < NETWORKS or _made(wirers, "endpoint") < ENDPOINTS:
                for wirer in wirers:
                    wirer.go.set()
                time.sleep(chance.uniform(0.3, 4.0))
                engine.kill()
                kills += 1
                for wirer in wirers:
                    wirer.go.clear()
                    assert wirer.resting.wait(60)
                engine.start()
                world = settled_without_leaks(engine, timeout_s=60)
                assert given_twice(world) == []
                assert found(engine) == set()
                assert [failure for wirer in wirers for failure in wirer.failures] == []
                print(f"kill {kills}: {_made(wirers, 'network')} networks, {_made(wirers, 'endpoint')} endpoints")
            for wirer in wirers:
                wirer.clear()
            _nothing_is_left(engine)
        except BaseException:
            print(f"ISHMAEL_SEED={seed}")
            raise
        finally:
            for wirer in wirers:
                wirer.quit = True
                wirer.go.set()


def _made(wirers: list[Wirer], kind: str) -> int:
    return sum(wirer.made[kind] for wirer in wirers)


def _nothing_is_left(engine: Engine) -> None:
    world = settled_without_leaks(engine, timeout_s=60)
    assert [network.settings.name for network in world.living("network")] == ["none", "host", "bridge"]
    ports = world.states.get("ports:host")
    assert ports is None or not ports.held
    links = json.loads(engine.in_namespace("ip", "-j", "link").stdout)
    names = {link["ifname"] for link in links if not link["ifname"].startswith("ishmael")}
    assert names == {"lo", "docker0"}
    for listed in ("map ip ishmael published_any", "map ip ishmael published_at", "set ip ishmael opened"):
        assert "elements" not in engine.in_namespace("nft", "list", *listed.split()).stdout
    assert found(engine) == set()
