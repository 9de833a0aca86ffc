"""An engine without a runtime, for tests: the real log, views, storage, image and network reactors, and the API on a
unix socket; a registry in memory and networks and volumes that only remember."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import trio

from engine.aggregates.catalog import ALL_DECIDERS
from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.decider import Cause, Command
from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest, VolumeName
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import Reference
from engine.api.app import EngineApp
from engine.api.routes import disk_usage, image_transfers, images, networks, registry, volumes
from engine.api.sizes import Sizes
from engine.application import Application
from engine.clock import SystemClock
from engine.config import DaemonConfig
from engine.drivers.linux.storage.store import LinuxStorage
from engine.drivers.ports.network import NetworkInventory, NetworkSpec
from engine.drivers.ports.registry import Credentials, RemoteManifest, SearchResult
from engine.entropy import SystemEntropy
from engine.errors import Fault, PortError
from engine.projections.containers import Containers
from engine.projections.events_feed import EventsFeed
from engine.projections.execs import Execs
from engine.projections.images import Images as ImagesView
from engine.projections.networks import Networks as NetworksView
from engine.projections.views import Views
from engine.projections.volumes import Volumes as VolumesView
from engine.reactors.base import Hands
from engine.reactors.images.service import Images
from engine.reactors.networks import NetworkReactor
from engine.reactors.volume_mounts import VolumeMounts
from engine.reactors.volumes import VolumeReactor
from tests.api.harness import Served, context, served
from tests.support.images import TestImage, digest

HOST = Platform(os="linux", architecture="amd64")
CAUSE = Cause(actor="test", correlation="test")


class MemoryRegistry:
    """The Registry port over dictionaries. `breaks`: blob digest -> offsets at which the connection breaks once;
    `gates`: blobs that wait before their first byte; `holdings`: repository -> blobs that came by a push or mount;
    `repositories`: domain -> what a search finds; `refuse`: words of the next refusal of a manifest."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.breaks: dict[str, list[int]] = {}
        self.gates: dict[str, trio.Event] = {}
        self.begun: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self.holdings: dict[str, set[str]] = {}
        self.repositories: dict[str, list[SearchResult]] = {}
        self.refuse = ""

    def push(self, name: str, tag: str, image: TestImage) -> str:
        self.blobs |= image.blobs
        found = digest(image.manifest)
        for key in (tag, found):
            self.manifests[f"{name}:{key}"] = (image.media_type, image.manifest)
        return found

    def push_index(self, name: str, tag: str, pushed: dict[str, TestImage]) -> str:
        entries = []
        for platform, image in pushed.items():
            found = self.push(name, digest(image.manifest), image)
            os_name, architecture = platform.split("/")
            entries.append(
                {
                    "mediaType": image.media_type,
                    "digest": found,
                    "size": len(image.manifest),
                    "platform": {"os": os_name, "architecture": architecture},
                }
            )
        kind = "application/vnd.oci.image.index.v1+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
        for key in (tag, digest(body)):
            self.manifests[f"{name}:{key}"] = (kind, body)
        return digest(body)

    async def manifest(
        self, reference: Reference, credentials: Credentials | None, *, to_pull: bool = True
    ) -> RemoteManifest:
        await trio.lowlevel.checkpoint()
        key = f"{reference.repository}:{reference.digest or reference.tag or 'latest'}"
        if key not in self.manifests:
            words = f"manifest for {reference.familiar} not found: " if to_pull else ""
            words += "manifest unknown: manifest unknown"
            raise PortError("pull manifest", words, fault=Fault.NOT_FOUND)
        kind, body = self.manifests[key]
        descriptor = Descriptor(media_type=kind, digest=Digest(digest(body)), size=len(body))
        return RemoteManifest(descriptor=descriptor, body=body)

    async def blob(
        self, reference: Reference, wanted: Digest, credentials: Credentials | None, offset: int = 0
    ) -> AsyncIterator[bytes]:
        self.begun.append((wanted, offset))
        try:
            if wanted in self.gates:
                await self.gates[wanted].wait()
            data = self.blobs[wanted]
            breaks = self.breaks.get(wanted, [])
            stop = breaks.pop(0) if breaks else len(data)
            for start in range(offset, stop, 65536):
                await trio.lowlevel.checkpoint()
                yield data[start : min(start + 65536, stop)]
            if stop < len(data):
                raise PortError("pull blob", "connection reset by peer", retriable=True)
        finally:
            self.ended.append(wanted)

    async def tags(self, reference: Reference, credentials: Credentials | None) -> tuple[str, ...]:
        prefix = f"{reference.repository}:"
        found = (key.removeprefix(prefix) for key in self.manifests if key.startswith(prefix))
        return tuple(sorted(tag for tag in found if not tag.startswith("sha256:")))

    async def has_blob(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> bool:
        await trio.lowlevel.checkpoint()
        return descriptor.digest in self.holdings.get(reference.repository, ())

    async def mount_blob(
        self, reference: Reference, descriptor: Descriptor, source_path: str, credentials: Credentials | None
    ) -> bool:
        await trio.lowlevel.checkpoint()
        if descriptor.digest not in self.holdings.get(f"{reference.domain}/{source_path}", ()):
            return False
        self.holdings.setdefault(reference.repository, set()).add(descriptor.digest)
        return True

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Callable[[int], AsyncIterator[bytes]],
        credentials: Credentials | None,
    ) -> None:
        self.begun.append((descriptor.digest, 0))
        body = b""
        async for chunk in source(0):
            body += chunk
            if descriptor.digest in self.gates:
                await self.gates[descriptor.digest].wait()
        assert (digest(body), len(body)) == (descriptor.digest, descriptor.size)
        self.blobs[descriptor.digest] = body
        self.holdings.setdefault(reference.repository, set()).add(descriptor.digest)

    async def push_manifest(
        self, reference: Reference, descriptor: Descriptor, body: bytes, credentials: Credentials | None
    ) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            words, self.refuse = self.refuse, ""
            raise PortError("push", words, fault=Fault.FORBIDDEN)
        for key in (reference.tag, digest(body)):
            self.manifests[f"{reference.repository}:{key}"] = (descriptor.media_type, body)

    async def search(
        self, domain: str, term: str, limit: int, credentials: Credentials | None
    ) -> tuple[SearchResult, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(result for result in self.repositories.get(domain, ()) if term in result.name)[:limit]

    async def login(self, server: str, credentials: Credentials) -> str:
        if credentials.password != "right":
            raise PortError("login", "unauthorized: incorrect username or password", fault=Fault.UNAUTHORIZED)
        return "identity"


class RememberedNetworks:
    """The Networks port: what was made and not removed. `refuse`: words of the next refusal."""

    def __init__(self) -> None:
        self.made: dict[str, NetworkSpec] = {}
        self.refuse = ""

    async def create(self, spec: NetworkSpec) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            words, self.refuse = self.refuse, ""
            raise PortError("create network", words)
        self.made[spec.network_id] = spec

    async def prepare(self) -> None:
        await trio.lowlevel.checkpoint()

    async def inventory(self) -> NetworkInventory:
        await trio.lowlevel.checkpoint()
        return NetworkInventory(bridges=tuple(network_id[:12] for network_id in self.made))

    async def remove(self, spec: NetworkSpec) -> None:
        await trio.lowlevel.checkpoint()
        self.made.pop(spec.network_id, None)


class DirectoryVolumes:
    """The Volumes port over plain directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refuse = ""

    async def create(self, name: VolumeName, options: Any, *, unless: Callable[[], bool] = lambda: False) -> str:
        path = self.root / name / "_data"
        if not unless():
            path.mkdir(parents=True, exist_ok=True)
        return str(path)

    async def remove(self, name: VolumeName) -> None:
        if self.refuse:
            words, self.refuse = self.refuse, ""
            raise PortError("remove volume", words)
        for path in sorted((self.root / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.root / name).rmdir()

    async def unmount(self, name: VolumeName, options: Any, *, unless: Callable[[], bool] = lambda: False) -> None:
        await trio.lowlevel.checkpoint()

    async def usages(self, names: Sequence[VolumeName]) -> dict[VolumeName, int]:
        return {
            name: sum(path.stat().st_size for path in (self.root / name).rglob("*") if path.is_file()) for name in names
        }


class TestEngine:
    """What a test may look at and do."""

    __test__ = False

    def __init__(self, data_root: Path, hands: Hands, storage: LinuxStorage, service: Images, ports: Any) -> None:
        self.data_root = data_root
        self.hands = hands
        self.storage = storage
        self.images = service
        self.networks: RememberedNetworks = ports.networks
        self.volumes: DirectoryVolumes = ports.volumes
        self.registry: Any = ports.registry
        self.served: Served

    async def execute(self, *commands: Command) -> None:
        await self.hands.application.execute(*commands, cause=CAUSE)

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait for something that shows in memory."""
        with trio.fail_after(10):
            while not fact():
                await trio.sleep(0.001)

    async def ask(self, method: str, path: str, body: Any = None, **rest: Any) -> tuple[int, Any]:
        """(status, decoded JSON or text). Plain values are sent as JSON, bytes as they are."""
        headers = dict(rest.pop("headers", {}))
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        status, told, answer = await self.served.ask(method, path, body=body, headers=headers)
        if told.get("content-type", "").startswith("application/json") and answer.count(b"\n") <= 1:
            return status, json.loads(answer) if answer else None
        return status, answer

    async def lines(self, method: str, path: str, body: Any = None, **rest: Any) -> list[dict[str, Any]]:
        """The messages of a progress stream."""
        status, answer = await self.ask(method, path, body, **rest)
        assert status == 200, answer
        return [json.loads(line) for line in answer.splitlines()] if isinstance(answer, bytes) else [answer]


def empty_views() -> Views:
    return Views(
        containers=Containers(),
        images=ImagesView(),
        networks=NetworksView(),
        volumes=VolumesView(),
        execs=Execs(),
        events=EventsFeed(),
    )


@contextlib.asynccontextmanager
async def running_engine(
    data_root: Path,
    *,
    registry_port: Any = None,
    config: DaemonConfig | None = None,
    prepare: Callable[[TestEngine], Any] | None = None,
    also: Callable[[EngineApp, Any], None] | None = None,
) -> AsyncIterator[TestEngine]:
    """Run and serve it. prepare: awaited before the reactors begin (first start, recovery)."""
    data_root.mkdir(parents=True, exist_ok=True)
    config = config or DaemonConfig(data_root=str(data_root))
    views = empty_views()
    application = Application(data_root, deciders=ALL_DECIDERS, clock=SystemClock(), projections=views.all())
    storage = LinuxStorage(str(data_root))
    ports = types.SimpleNamespace(
        registry=registry_port or MemoryRegistry(),
        networks=RememberedNetworks(),
        volumes=DirectoryVolumes(data_root / "volumes"),
        rootfs=storage.rootfs,
        layers=storage.layers,
    )
    async with application.running():
        hands = Hands(
            application=application,
            views=views,
            vault=mock.sentinel.vault,
            clock=SystemClock(),
            entropy=SystemEntropy(),
        )
        service = Images(
            hands,
            ports.registry,
            storage.blobs,
            storage.layers,
            storage.archives,
            storage.rootfs,
            host_platform=HOST,
            config=config,
            retry_step_s=0.0,
        )
        engine = TestEngine(data_root, hands, storage, service, ports)
        if prepare is not None:
            await prepare(engine)
        async with trio.open_nursery() as nursery:
            given = context(
                application=application,
                pump=application.pump,
                views=views,
                ports=ports,
                config=config,
                images=service,
                facts=RuleFacts(cpus=frozenset({0})),
                ephemeral=None,
                sizes=Sizes(ports.rootfs, ports.volumes, ports.layers, views, nursery),
                host_routes=lambda: ("172.18.0.0/16",),
            )

            def register(app: EngineApp) -> None:
                for routes in (images, image_transfers, networks, volumes, registry, disk_usage):
                    routes.register(app, given)
                if also is not None:
                    also(app, given)

            position = application.position
            for run in (
                service.run,
                NetworkReactor(hands, ports.networks).run,
                VolumeReactor(hands, ports.volumes, VolumeMounts(hands, ports.volumes)).run,
            ):
                await nursery.start(run, position)
            async with served(register) as engine.served:
                yield engine
            nursery.cancel_scope.cancel()
