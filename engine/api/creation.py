"""From a create request to one transaction: image, plan, secrets, a name.

Owns the order of it all. What a request comes to is decided without any I/O, in new_container.py; nothing here touches
a kernel.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec
from msgspec.structs import replace

from engine import transactions
from engine.aggregates.container.commands import CreateContainer
from engine.aggregates.container.merge import merge
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.image import ImageState
from engine.aggregates.values.config import ContainerConfig, HostConfig, NetworkingConfig
from engine.aggregates.values.ids import ContainerID, short
from engine.aggregates.values.platform import fallbacks
from engine.aggregates.values.platform import parse as parse_platform
from engine.api import creation_versions, naming
from engine.api.context import ApiContext
from engine.api.image_platforms import find
from engine.api.new_container import NewContainers, Request, checked_name, volumes_of
from engine.errors import PortError

PLATFORM_SINCE = (1, 41)


class CreateBody(ContainerConfig, frozen=True, kw_only=True):
    """The flat body of `POST /containers/create`."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


class Created(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str
    warnings: tuple[str, ...] = ()


class Creation:
    """One create request on its way."""

    def __init__(self, context: ApiContext, body: CreateBody, api_version: tuple[int, int]) -> None:
        self._context = context
        self._body = body
        self._api_version = api_version
        self._warnings: list[str] = []

    async def run(self, name: str, platform: str, cause: Cause) -> Created:
        """Check everything, then append once. Raises Rejected; then nothing has changed."""
        context = self._context
        container_id = ContainerID(context.entropy.hex_id())
        if name:
            name = checked_name(name)
        request = self._request()
        planning = NewContainers(
            context.views,
            context.config,
            context.facts,
            hostname=socket.gethostname(),
            new_name=context.entropy.hex_id,
        )
        try:
            image = self._image(request.config.image, platform if self._api_version >= PLATFORM_SINCE else "")
        except Rejected:
            planning.checked(request, request.config)  # Nobody should pull an image to hear of a slip in the request.
            raise
        image_config = await context.images.config_of(image)
        config = merge(request.config, image_config.config)
        plan = planning.plan(request, image, config, container_id, name=name, at=context.clock.now_ns())
        self._warnings += plan.warnings
        command = plan.command
        for point in command.mounts:
            if point.type == "bind" and not point.create_source:
                await context.ports.host_paths.ensure(point.source, create=False)
        env = None
        if plan.env:
            env = await context.vault.seal(f"container:{container_id}", msgspec.json.encode(plan.env))
            command = replace(command, env=env)
        try:
            await self._append(command, cause)
        except (Rejected, PortError):
            if env is not None:
                await context.vault.erase(env.owner)  # The key of a container that never was.
            raise
        return Created(id=container_id, warnings=tuple(self._warnings))

    def _request(self) -> Request:
        """As the API of the client's version meant it."""
        fields = {name: getattr(self._body, name) for name in ContainerConfig.__struct_fields__}
        if ContainerConfig(**fields) == ContainerConfig():
            raise Rejected(Reason.INVALID, "config cannot be empty in order to create a container")
        host = creation_versions.host_of(self._body.host_config, self._api_version)
        networking = creation_versions.networking_of(self._body.networking_config, host, self._api_version)
        config = creation_versions.config_of(ContainerConfig(**fields), self._api_version)
        return Request(config=config, host=host, networking=networking)

    def _image(self, name: str, wanted: str) -> ImageState:
        """What is asked for must be there; what is not asked for and does not fit is a warning (CTR-47)."""
        here = self._context.images.host_platform
        if wanted:
            return find(self._context, name, parse_platform(wanted, here))
        image = find(self._context, name)
        if image.platform is not None and image.platform.normalized not in fallbacks(here):
            self._warnings.append(
                f"The requested image's platform ({image.platform}) does not match the detected host platform "
                f"({here}) and no specific platform was requested"
            )
        return image

    async def _append(self, command: CreateContainer, cause: Cause) -> None:
        """The container with its name and volumes, as one transaction; a generated name is drawn anew when taken."""
        attempts = 1 if command.name else naming.ATTEMPTS
        for attempt in range(attempts + 1):
            name = command.name
            if not name:
                last = attempt == attempts
                name = short(command.container_id) if last else naming.generate(self._context.entropy.below)
            try:
                named = replace(command, name=name)
                await self._context.application.execute(*volumes_of(command), *transactions.create(named), cause=cause)
            except Rejected as rejected:
                if command.name or attempt == attempts or not rejected.message.startswith("Conflict. The container"):
                    raise
            else:
                return


def env_of(context: Any, state: ContainerState) -> tuple[str, ...]:
    """A container's environment in the clear, for `inspect` and the process."""
    if state.env is None:
        return ()
    return msgspec.json.decode(context.vault.open(state.env), type=tuple[str, ...])
