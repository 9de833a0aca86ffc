"""A short history as an engine would write it, told to a real log: one image, two networks, a volume, three containers.

`web` is published, stopped by a user and removed; `job` runs out of memory; `lone` still runs at the end.
"""

from __future__ import annotations

from pathlib import Path

from engine.aggregates import catalog, image, names, network, ports, transfer, volume
from engine.aggregates.container import commands as c
from engine.aggregates.decider import Cause, Command
from engine.aggregates.names import NameKind
from engine.aggregates.values.config import ContainerConfig, HostConfig
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.endpoints import Endpoint, NetworkAttachment, PortWish, PublishedPort
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.sealed import Sealed
from engine.aggregates.values.subnet import Pool
from engine.application import Application, Committed
from tests.support.counter import SteppingClock

WEB, JOB, LONE = "4f5e" + "a" * 60, "77" + "b" * 62, "4f99" + "c" * 60
BRIDGE, BACKEND = "d1" * 32, "d2" * 32
IMAGE = "sha256:" + "e5" * 32
SECRET = b"the ciphertext"
USER = "uid=1000 gid=1000 pid=412 exe=/usr/bin/docker"
SECOND = 1_000_000_000


class Teller:
    """Executes commands as somebody, for some reason, at the clock's time."""

    def __init__(self, application: Application, clock: SteppingClock) -> None:
        self._application = application
        self.clock = clock
        self._requests = 0
        self._correlation = ""

    async def user(self, *commands: Command) -> Committed:
        self._requests += 1
        self._correlation = f"req-{self._requests}"
        return await self._application.execute(*commands, cause=Cause(actor=USER, correlation=self._correlation))

    async def reactor(self, name: str, *commands: Command) -> Committed:
        position = self._application.position
        cause = Cause(actor=f"reactor:{name}", correlation=self._correlation, causation=f"@{position}")
        return await self._application.execute(*commands, cause=cause)


async def tell(directory: Path) -> dict[str, int]:
    """Write the story; positions of its turning points by name."""
    clock = SteppingClock()
    application = Application(directory, deciders=catalog.ALL_DECIDERS, clock=clock)
    marks: dict[str, int] = {}
    async with application.running():
        teller = Teller(application, clock)
        await _image_and_networks(teller)
        marks["prepared"] = application.position
        await _web(teller)
        marks["web runs"] = application.position
        await _job_and_lone(teller)
        marks["all ran"] = application.position
        await _end_of_web(teller)
        marks["end"] = application.position
    return marks


async def _image_and_networks(teller: Teller) -> None:
    now = teller.clock.now_ns()
    await teller.user(transfer.BeginTransfer(transfer_id="t1", at=now, kind="pull", reference="busybox"))
    blob = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest="sha256:" + "1" * 64, size=700)
    layer = image.ImageLayer(diff_id="sha256:" + "2" * 64, chain_id="sha256:" + "2" * 64, blob=blob, size=4_260_000)
    config = Descriptor(media_type="application/vnd.oci.image.config.v1+json", digest=IMAGE, size=400)
    await teller.reactor(
        "images",
        image.AddImage(
            image_id=IMAGE,
            at=now,
            platform=Platform(os="linux", architecture="amd64"),
            created_at=now - 86400 * SECOND,
            layers=(layer,),
            config=config,
            manifest=None,
            labels={},
            origin="pull",
        ),
        image.TagImage(image_id=IMAGE, at=now, reference="docker.io/library/busybox:latest"),
        transfer.ReportTransferDone(transfer_id="t1", images=(IMAGE,)),
    )
    for network_id, name, subnet in ((BRIDGE, "bridge", "172.17"), (BACKEND, "backend", "172.18")):
        settings = network.NetworkSettings(
            name=name, driver="bridge", pools=(Pool(subnet=f"{subnet}.0.0/16", gateway=f"{subnet}.0.1"),)
        )
        await teller.user(network.CreateNetwork(network_id=network_id, at=teller.clock.now_ns(), settings=settings))
        await teller.reactor("networking", network.ReportNetworkReady(network_id=network_id))
    await teller.user(volume.CreateVolume(name="data", at=now, driver="local", options={}, labels={}, anonymous=False))


def _create(container_id: str, name: str, cmd: tuple[str, ...], at: int) -> tuple[Command, ...]:
    return (
        names.ReserveName(kind=NameKind.CONTAINER, name=name, owner=container_id),
        c.CreateContainer(
            container_id=container_id,
            at=at,
            name=name,
            image_id=IMAGE,
            layers=("sha256:" + "2" * 64,),
            config=ContainerConfig(image="busybox", cmd=cmd, labels={"tier": "front"}),
            env=Sealed(owner=f"container:{container_id}", box=SECRET),
            host=HostConfig(network_mode="bridge", memory=64 << 20),
            networks=(NetworkAttachment(name="bridge", network_id=BRIDGE),),
            mounts=(),
            platform="linux",
            runtime="native",
        ),
    )


async def _start(teller: Teller, container_id: str, pid: int, published: tuple[PublishedPort, ...] = ()) -> None:
    now = teller.clock.now_ns()
    wishes = tuple(
        PortWish(
            host_ip=port.host_ip,
            first_port=port.host_port,
            last_port=port.host_port,
            container_port=port.container_port,
        )
        for port in published
    )
    await teller.user(
        c.StartContainer(container_id=container_id, at=now),
        ports.ReservePorts(container_id=container_id, wishes=wishes),
        network.AllocateEndpoint(network_id=BRIDGE, endpoint_id=container_id[:4] * 16, container_id=container_id),
    )
    endpoint = Endpoint(
        endpoint_id=container_id[:4] * 16,
        network_id=BRIDGE,
        container_id=container_id,
        ipv4_address="172.17.0.2",
        ipv4_prefix_length=16,
    )
    started = c.ReportStarted(container_id=container_id, run=1, at=now, pid=pid, endpoints=(endpoint,), ports=published)
    await teller.reactor("lifecycle", started)


async def _web(teller: Teller) -> None:
    now = teller.clock.now_ns()
    await teller.user(*_create(WEB, "web", ("httpd", "-f"), now), volume.ReferenceVolume(name="data", container_id=WEB))
    await _start(teller, WEB, 4711, (PublishedPort(host_ip="0.0.0.0", host_port=8080, container_port=80),))


async def _exit(teller: Teller, container_id: str, code: int, *, oom: bool = False) -> None:
    await teller.reactor(
        "lifecycle",
        c.ReportExited(container_id=container_id, run=1, at=teller.clock.now_ns(), exit_code=code, oom_killed=oom),
        network.ReleaseEndpoint(network_id=BRIDGE, container_id=container_id),
        ports.ReleasePorts(container_id=container_id),
    )


async def _job_and_lone(teller: Teller) -> None:
    await teller.user(*_create(JOB, "job", ("eat", "memory"), teller.clock.now_ns()))
    await _start(teller, JOB, 4712)
    await teller.user(*_create(LONE, "lone", ("sleep", "inf"), teller.clock.now_ns()))
    await _start(teller, LONE, 4713)
    await _exit(teller, JOB, 137, oom=True)


async def _end_of_web(teller: Teller) -> None:
    now = teller.clock.now_ns()
    await teller.user(c.StopContainer(container_id=WEB, at=now, signal=15, deadline=now + 10 * SECOND))
    await _exit(teller, WEB, 143)
    await teller.user(c.RemoveContainer(container_id=WEB, at=teller.clock.now_ns(), force=False, volumes=False))
    await teller.reactor(
        "lifecycle",
        c.ReportRemoved(container_id=WEB, at=teller.clock.now_ns()),
        names.ReleaseName(kind=NameKind.CONTAINER, name="web", owner=WEB),
        volume.ReleaseVolume(name="data", container_id=WEB),
    )
