"""Random histories of a whole host: containers, names, addresses, ports, volumes and tags, told as transactions.

Owns: steps that an API and the reactors would take, each one transaction of engine/transactions.py. What a rule
refuses has not happened. Hypothesis chooses the steps; the memory's log is the history.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

from engine import transactions
from engine.aggregates import exec as exec_
from engine.aggregates import image, network, volume
from engine.aggregates.container import commands as c
from engine.aggregates.container.lifecycle import STARTABLE, Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.network import NetworkState
from engine.aggregates.values.config import ContainerConfig, HostConfig, PortBinding, RestartPolicy
from engine.aggregates.values.descriptor import OCI_CONFIG, Descriptor
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.mounts import MountPoint
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.sealed import Sealed
from engine.aggregates.values.subnet import Pool
from engine.transactions import EphemeralRange
from tests.support.memory import Memory

CONTAINERS = [digit * 64 for digit in "abc"]
IMAGES = [f"sha256:{digit * 64}" for digit in "12"]
NETWORKS = {"front": "d1" * 32, "back": "d2" * 32}
TAG = "docker.io/library/alpine:latest"
EPHEMERAL = EphemeralRange(first=40000, last=40007)
NAMES = ["web", "db"]


class World:
    """A host in memory. Every step returns whether it was granted."""

    def __init__(self) -> None:
        self.memory = Memory()
        self._counter = itertools.count(1)
        for number, (name, network_id) in enumerate(NETWORKS.items()):
            pool = Pool(subnet=f"172.{18 + number}.0.0/29", gateway=f"172.{18 + number}.0.1")
            settings = network.NetworkSettings(name=name, driver="bridge", pools=(pool,))
            self.tell(
                network.CreateNetwork(network_id=network_id, at=1, settings=settings),
                network.ReportNetworkReady(network_id=network_id),
            )
        self.add_image(IMAGES[0])
        self.create_volume()

    def tell(self, *commands: Command) -> bool:
        try:
            self.memory.execute(*commands)
        except Rejected:
            return False
        return True

    def container(self, container_id: str) -> ContainerState:
        state = self.memory.state("container", container_id)
        assert isinstance(state, ContainerState)
        return state

    def find_network(self, reference: str) -> NetworkState | None:
        state = self.memory.state("network", NETWORKS.get(reference, reference))
        return state if state.status is network.NetworkStatus.READY else None

    def random_hex(self) -> str:
        return f"{next(self._counter):064x}"

    # -- steps ---------------------------------------------------------------------------------------------------------

    def add_image(self, image_id: str) -> bool:
        config = Descriptor(media_type=OCI_CONFIG, digest=image_id, size=2)
        return self.tell(
            image.AddImage(
                image_id=image_id,
                at=1,
                platform=Platform(os="linux", architecture="amd64"),
                created_at=1,
                layers=(),
                config=config,
                manifest=None,
                labels={},
            )
        )

    def tag(self, image_id: str) -> bool:
        owner = self.memory.state("name", f"image/{TAG}").owner
        return self.tell(*transactions.tag(image_id, TAG, owner, 2))

    def untag(self, image_id: str) -> bool:
        return self.tell(*transactions.untag(image_id, [TAG]))

    def remove_image(self, image_id: str) -> bool:
        references = self.memory.state("image", image_id).references
        return self.tell(*transactions.untag(image_id, references), image.RemoveImage(image_id=image_id, at=3)) and (
            self.tell(image.ReportImageRemoved(image_id=image_id, layers=()))
        )

    def create_volume(self) -> bool:
        return self.tell(volume.CreateVolume(name="data", at=1, driver="local", options={}, labels={}, anonymous=False))

    def remove_volume(self) -> bool:
        removed = self.tell(volume.RemoveVolume(name="data", at=1))
        return removed and self.tell(volume.ReportVolumeRemoved(name="data"))

    def create(self, container_id: str, name: str, *, published: bool, auto_remove: bool, always: bool) -> bool:
        bindings = {"80/tcp": (PortBinding(),), "81/tcp": (PortBinding(host_port="8081"),)} if published else {}
        policy = RestartPolicy(name="always" if always and not auto_remove else "no")
        host = HostConfig(network_mode="front", port_bindings=bindings, auto_remove=auto_remove, restart_policy=policy)
        command = c.CreateContainer(
            container_id=container_id,
            at=next(self._counter),
            name=name,
            image_id=IMAGES[0],
            layers=(),
            config=ContainerConfig(cmd=("x",), hostname=container_id[:12]),
            env=None,
            host=host,
            networks=tuple(NetworkAttachment(name=each, network_id=id_) for each, id_ in NETWORKS.items()),
            mounts=(MountPoint(type="volume", destination="/data", name="data"),),
            platform="linux",
            runtime="native",
        )
        return self.tell(*transactions.create(command))

    def start_commands(self, container_id: str) -> tuple[Command, ...]:
        return transactions.start(
            self.container(container_id),
            c.StartContainer(container_id=container_id, at=next(self._counter)),
            find_network=self.find_network,
            endpoint_ids=self.random_hex,
            seed=lambda size: bytes(size),
            ephemeral=EPHEMERAL,
        )

    def start(self, container_id: str) -> bool:
        state = self.container(container_id)
        if state.status not in STARTABLE:
            return self.tell(c.StartContainer(container_id=container_id, at=1))
        try:
            commands = self.start_commands(container_id)
        except Rejected:
            return False
        return self.tell(*commands)

    def started(self, container_id: str) -> bool:
        state = self.container(container_id)
        endpoints = tuple(
            held
            for network_id in NETWORKS.values()
            if (held := self.memory.state("network", network_id).endpoints.get(container_id)) is not None
        )
        held_ports = self.memory.state("ports", "host").held.get(container_id, ())
        return state.starting and self.tell(
            c.ReportStarted(
                container_id=container_id, run=state.run, at=9, pid=7, endpoints=endpoints, ports=held_ports
            )
        )

    def start_failed(self, container_id: str) -> bool:
        state = self.container(container_id)
        report = c.ReportStartFailed(container_id=container_id, run=state.run, at=9, error="no", exit_code=127)
        return state.starting and self.tell(report, *transactions.release(state, self.find_network))

    def exited(self, container_id: str) -> bool:
        state = self.container(container_id)
        report = c.ReportExited(container_id=container_id, run=state.run, at=9, exit_code=0, oom_killed=False)
        return state.alive and self.tell(report, *transactions.release(state, self.find_network))

    def stop(self, container_id: str) -> bool:
        return self.tell(c.StopContainer(container_id=container_id, at=9, signal=15, deadline=19))

    def rename(self, container_id: str, name: str) -> bool:
        return self.tell(*transactions.rename(self.container(container_id), name))

    def remove(self, container_id: str, *, force: bool) -> bool:
        return self.tell(c.RemoveContainer(container_id=container_id, at=9, force=force, volumes=False))

    def removed(self, container_id: str) -> bool:
        state = self.container(container_id)
        removing = state.status is Status.REMOVING and not state.alive
        return removing and self.tell(*transactions.removed(state, 9, self.find_network))

    def exec(self, container_id: str) -> bool:
        exec_id = self.random_hex()
        create = exec_.CreateExec(
            exec_id=exec_id,
            at=9,
            container_id=container_id,
            spec=exec_.ExecSpec(),
            secret=Sealed(owner=f"container:{container_id}", box=b"x"),
            entrypoint="sh",
        )
        return self.container(container_id).alive and self.tell(
            create, exec_.StartExec(exec_id=exec_id, at=9, detach=False, tty=False)
        )

    def exec_ended(self, number: int, *, swept: bool) -> bool:
        """The oldest exec of so many (mod) ends, and perhaps is swept."""
        known = [recorded.key for recorded in self.memory.log if isinstance(recorded.event, exec_.ExecCreated)]
        if not known:
            return False
        exec_id = known[number % len(known)]
        sweep = (exec_.RemoveExec(exec_id=exec_id),) if swept else ()
        return self.tell(exec_.ReportExecExited(exec_id=exec_id, at=9, exit_code=0), *sweep)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is held by the dead, no name is of nobody, and everything that runs holds what it was given."""
        self.memory.check()
        for container_id in CONTAINERS:
            state = self.container(container_id)
            if state.status not in (Status.ABSENT, Status.REMOVED):
                assert self.memory.state("name", f"container/{state.name}").owner == container_id
                assert container_id in self.memory.state("volume", "data").references
            holds = state.alive or state.starting
            for network_id in NETWORKS.values():
                assert (container_id in self.memory.state("network", network_id).endpoints) == holds
            published = bool(state.host.port_bindings)
            assert (container_id in self.memory.state("ports", "host").held) == (holds and published)
        for name in NAMES:
            owner = self.memory.state("name", f"container/{name}").owner
            assert not owner or self.container(owner).name == name
        self._check_tags()

    def _check_tags(self) -> None:
        owner = self.memory.state("name", f"image/{TAG}").owner
        having = [image_id for image_id in IMAGES if TAG in self.memory.state("image", image_id).references]
        assert having == ([owner] if owner else [])


def steps(world: World) -> dict[str, Callable[..., Any]]:
    """The steps by name, for who chooses among them at random: step(draw) with draw(strategy)."""
    who, name, which = st.sampled_from(CONTAINERS), st.sampled_from(NAMES), st.sampled_from(IMAGES)
    yes = st.booleans()
    return {
        "create": lambda draw: world.create(
            draw(who), draw(name), published=draw(yes), auto_remove=draw(yes), always=draw(yes)
        ),
        "start": lambda draw: world.start(draw(who)),
        "started": lambda draw: world.started(draw(who)),
        "start failed": lambda draw: world.start_failed(draw(who)),
        "exited": lambda draw: world.exited(draw(who)),
        "stop": lambda draw: world.stop(draw(who)),
        "rename": lambda draw: world.rename(draw(who), draw(name)),
        "remove": lambda draw: world.remove(draw(who), force=draw(yes)),
        "removed": lambda draw: world.removed(draw(who)),
        "exec": lambda draw: world.exec(draw(who)),
        "exec ended": lambda draw: world.exec_ended(draw(st.integers(0, 9)), swept=draw(yes)),
        "add image": lambda draw: world.add_image(draw(which)),
        "tag": lambda draw: world.tag(draw(which)),
        "untag": lambda draw: world.untag(draw(which)),
        "remove image": lambda draw: world.remove_image(draw(which)),
        "volume": lambda draw: world.create_volume(),
        "remove volume": lambda draw: world.remove_volume(),
    }


def histories(choices: Iterable[str]) -> st.SearchStrategy[list[str]]:
    """Names of steps, those that carry a life along more often than the rest."""
    names = sorted(choices)
    likely = ["create", "start", "started", "exited", "removed", "remove"]
    return st.lists(st.sampled_from([*names, *likely * 3]), min_size=50, max_size=90)
