"""What the routes are given: the application, the views, the ports; by name, once, frozen.

Everything here is a Protocol of what the API uses, so that the front knows no concrete driver and tests can serve a
route with behaviour of their own. bootstrap.py puts the real things together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

import trio

from engine.aggregates.container.rules import RuleFacts
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Command, Recorded
from engine.aggregates.exec import ExecState
from engine.aggregates.image import ImageState
from engine.aggregates.values.commit import CommitWish
from engine.aggregates.values.drift import Outcome
from engine.aggregates.values.health import HealthResult
from engine.aggregates.values.ids import ContainerID, Digest, ExecID, ImageID
from engine.aggregates.values.manifest import ImageConfig
from engine.aggregates.values.platform import Platform
from engine.aggregates.values.reference import Reference
from engine.api.sampling import Sampling
from engine.api.sizes import Sizes
from engine.archive.store import Archive
from engine.clock import Clock
from engine.config import DaemonConfig
from engine.drivers.ports.host import Host
from engine.drivers.ports.registry import Credentials
from engine.entropy import Entropy
from engine.projections.views import Views
from engine.transactions import EphemeralRange
from engine.vault import Vault


class ExecsAhead(Protocol):
    """What of an exec can be done before it is asked for (engine/reactors/execs.py)."""

    def approach(self, container_id: ContainerID, exec_id: ExecID) -> None:
        """An exec is created that its client will attach to."""
        ...

    def expecting(self, state: ExecState) -> AbstractAsyncContextManager[None]:
        """Around the start of an attached exec, which leads to this state."""
        ...


class NothingAhead:
    """Everything in its time."""

    def approach(self, container_id: ContainerID, exec_id: ExecID) -> None:
        pass

    def expecting(self, state: ExecState) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class Application(Protocol):
    """The writer (engine/application.py)."""

    @property
    def position(self) -> int: ...

    @property
    def archive(self) -> Archive: ...

    def read(self, after: int, limit: int) -> list[Recorded]: ...

    def position_before(self, time_ns: int) -> int: ...

    async def execute(self, *commands: Command, cause: Cause) -> Any: ...

    def state(self, kind: str, key: str) -> Any: ...

    def newest(self, kind: str, key: str) -> Any: ...


class Pump(Protocol):
    """The log as it grows (engine/pump.py)."""

    def subscribe(self, after: int, *kinds: str) -> AsyncIterator[Recorded]: ...

    async def until(self, stream: str, predicate: Callable[[Any], object]) -> Any: ...


EmitMessage = Callable[[object], Awaitable[None]]
"""Sends one progress message to the client."""


class ImageService(Protocol):
    """What moves images in and out (engine/reactors/images). Each verb runs in the request's task: a client that leaves
    cancels it. Messages are Docker's progress messages."""

    async def config_of(self, image: ImageState) -> ImageConfig:
        """What a container inherits, from the image's configuration blob."""
        ...

    async def entries_of(self, index: Digest) -> Sequence[Mapping[str, Any]]:
        """The descriptors of an index that an image here is one of."""
        ...

    async def pull(
        self,
        reference: Reference,
        platform: Platform | None,
        credentials: Credentials | None,
        emit: EmitMessage,
        cause: Cause,
        *,
        all_tags: bool = False,
    ) -> ImageID: ...

    async def push(
        self,
        reference: Reference,
        credentials: Credentials | None,
        emit: EmitMessage,
        cause: Cause,
        platform: Platform | None = None,
    ) -> None:
        """Push a tag, or all of a repository's; of an index the image of one platform, where one is given. The first
        message comes before the registry is asked."""
        ...

    async def load(
        self,
        archive: AsyncIterator[bytes],
        emit: EmitMessage,
        cause: Cause,
        *,
        quiet: bool = True,
        platforms: Sequence[Platform] = (),
    ) -> tuple[ImageID, ...]: ...

    async def import_image(
        self,
        archive: AsyncIterator[bytes],
        reference: Reference | None,
        platform: Platform,
        message: str,
        changes: Sequence[str],
        cause: Cause,
    ) -> ImageID: ...

    async def import_url(
        self,
        url: str,
        emit: EmitMessage,
        reference: Reference | None,
        platform: Platform,
        message: str,
        changes: Sequence[str],
        cause: Cause,
    ) -> ImageID:
        """The same of what a URL has. The first message comes when its server has answered."""
        ...

    async def commit(self, state: ContainerState, wish: CommitWish, cause: Cause) -> ImageID:
        """An image of what a container wrote, over the image it was made from."""
        ...

    async def tag(self, image_id: ImageID, reference: Reference, cause: Cause, index: Digest = ...) -> None:
        """Give an image a name, from whoever has it. index: what the name stands for, when that is one of the image's
        indexes."""
        ...

    async def hand_over(self, image_id: ImageID, index: Digest, cause: Cause) -> None:
        """Give the names of an image that stand for an index to another image of it that is here, if there is one."""
        ...

    async def collect(self) -> int:
        """Discard what failed transfers left: how many blobs and layers."""
        ...

    @property
    def host_platform(self) -> Platform:
        """What an image is pulled or imported for, when nobody says."""
        ...

    def save(self, names: Sequence[str], cause: Cause, platforms: Sequence[Platform] = ()) -> AsyncIterator[bytes]:
        """A tar of the named images; platforms: of their indexes these alone. Raises Rejected(NOT_FOUND)
        before the first chunk."""
        ...


class Drift(Protocol):
    """Where log and world differ (docs/design/drift.md)."""

    async def look(self) -> tuple[Outcome, ...]: ...

    async def mend(self) -> tuple[Outcome, ...]: ...


class VolumeMounts(Protocol):
    """Volumes with a device, mounted while somebody uses them."""

    def looking(self, state: ContainerState) -> AbstractAsyncContextManager[None]:
        """Those of a container that does not run are there for as long as the block lasts. Raises PortError."""
        ...


@dataclasses.dataclass(kw_only=True)
class ApiContext:
    """What a route may use. `ports` are the drivers by name (`ports.streams`, `ports.registry`), a struct of
    bootstrap.py. `config` and `facts` are replaced as wholes by a reload; everything else is for ever."""

    application: Application
    pump: Pump
    vault: Vault
    views: Views
    ports: Any
    config: DaemonConfig
    clock: Clock
    entropy: Entropy
    host: Host
    engine_id: str
    images: ImageService
    facts: RuleFacts
    """What the rules of container configurations need to know of the host."""
    ephemeral: EphemeralRange
    sampling: Sampling
    sizes: Sizes
    mounts: VolumeMounts
    lasting: trio.Nursery
    """For what goes on when its client leaves: it ends with the engine."""
    execs_ahead: ExecsAhead = dataclasses.field(default_factory=NothingAhead)
    recent_health: Callable[[ContainerState], Sequence[HealthResult]] = lambda state: state.health.log
    """The last probes of a container, those included that changed nothing."""
    host_routes: Callable[[], Sequence[str]] = tuple
    """Destinations the host reaches already: new networks stay away from them."""
    init_path: str = ""
    """Of the binary that `--init` runs; nothing where there is none."""
    drift: Drift | None = None
    """Log and world compared; an engine of tests may have none."""
    damage: Callable[[], Sequence[str]] = tuple
    """What is lost of the engine's own files, in sentences; nothing when all is well."""
    ready: Callable[[], bool] = lambda: True
    """False while the start-up recovers: everything but `_ping` and `version` answers 503 then."""
