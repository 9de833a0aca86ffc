"""Writing to a registry: blobs, mounted or uploaded, and manifests.

Owns the upload protocol (start, one PUT with the whole body) and the retries: a broken upload begins again, because the
source is a file of ours. Source: OCI distribution-spec v1.1, "Pushing blobs".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx
import trio
from msgspec.structs import replace

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials
from engine.drivers.registry.door import WRITE, Ask, Door
from engine.drivers.registry.http import ERROR_BYTES_MAX, bounded
from engine.errors import Fault, PortError

OCTETS = "application/octet-stream"


class Uploads:
    """The writing half of RegistryClient."""

    def __init__(self, door: Door, attempts: int, backoff_s: tuple[float, ...]) -> None:
        self._door = door
        self._attempts = attempts
        self._backoff_s = backoff_s

    async def has_blob(self, reference: Reference, descriptor: Descriptor, credentials: Credentials | None) -> bool:
        ask = Ask(
            reference=reference, method="HEAD", path=f"/v2/{reference.path}/blobs/{descriptor.digest}",
            operation="push", credentials=credentials, actions=WRITE,
        )  # fmt: skip
        try:
            await self._persistently(ask)
        except PortError as error:
            if error.fault is Fault.NOT_FOUND:
                return False
            raise
        return True

    async def mount_blob(
        self, reference: Reference, descriptor: Descriptor, source_path: str, credentials: Credentials | None
    ) -> bool:
        """Ask the registry to take the blob from another of its repositories. False when it would rather have it sent
        (the upload it then begins is given up)."""
        ask = Ask(
            reference=reference, method="POST", operation="push", credentials=credentials, actions=WRITE,
            path=f"/v2/{reference.path}/blobs/uploads/?mount={descriptor.digest}&from={source_path}",
            headers={"Content-Length": "0"}, also=(f"repository:{source_path}:pull",),
        )  # fmt: skip
        response = await self._once(ask)
        if response.status_code == 201:
            return True
        place = response.headers.get("location", "")
        if place:
            abandon = replace(ask, method="DELETE", path=_place(response, place), expected=frozenset(range(200, 500)))
            await self._once(abandon)
        return False

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Callable[[], AsyncIterator[bytes]],
        credentials: Credentials | None,
    ) -> None:
        start = Ask(
            reference=reference, method="POST", path=f"/v2/{reference.path}/blobs/uploads/", operation="push",
            credentials=credentials, actions=WRITE, headers={"Content-Length": "0"},
        )  # fmt: skip
        headers = {"Content-Type": OCTETS, "Content-Length": str(descriptor.size)}
        for attempt in range(self._attempts):
            try:
                response = await self._once(start)
                place = httpx.URL(_place(response, response.headers.get("location", "")))
                path = str(place.copy_merge_params({"digest": descriptor.digest}))
                await self._once(replace(start, method="PUT", path=path, headers=headers, content=source))
            except PortError as error:
                if not error.retriable or attempt == self._attempts - 1:
                    raise
            else:
                return
            await trio.sleep(self._backoff_s[attempt])

    async def push_manifest(
        self, reference: Reference, descriptor: Descriptor, body: bytes, credentials: Credentials | None
    ) -> None:
        path = f"/v2/{reference.path}/manifests/{reference.tag or descriptor.digest}"
        ask = Ask(
            reference=reference, method="PUT", path=path,
            operation="push", credentials=credentials, actions=WRITE, headers={"Content-Type": descriptor.media_type},
            content=body,
        )  # fmt: skip
        await self._persistently(ask)

    async def _persistently(self, ask: Ask) -> httpx.Response:
        """As `_once`, with retries. A connection that was never made is not tried again: the user waits."""
        for attempt in range(self._attempts):
            try:
                return await self._once(ask)
            except PortError as error:
                never_made = isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
                if never_made or not error.retriable or attempt == self._attempts - 1:
                    raise
            await trio.sleep(self._backoff_s[attempt])
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, ask: Ask) -> httpx.Response:
        """One request; the answer, its small body read and dropped. Raises PortError."""
        try:
            async with AsyncExitStack() as stack:
                response = await self._door.open(stack, ask)
                await bounded(response, ERROR_BYTES_MAX)
                return response
        except (httpx.TransportError, PortError) as error:
            raise self._door.translated(error, ask) from error


def _place(response: httpx.Response, location: str) -> str:
    """Where an upload goes on, as a whole URL."""
    if not location:
        raise PortError("push", "the registry began an upload and did not say where")
    return str(response.request.url.join(location))
