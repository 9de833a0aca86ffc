"""Writing to a registry: blobs, mounted or uploaded, and manifests.

Owns the upload protocol and its retries. A small blob goes with the request that ends its upload; a larger one is
streamed first (PATCH), so that after a break the registry can be asked how much it has, and is sent the rest. One that
does not know (distribution gives up an upload whose stream broke) gets the blob anew.
Source: OCI distribution-spec v1.1, "Pushing blobs", "Pushing a blob in chunks".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial

import httpx
import msgspec
import trio
from msgspec.structs import replace

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.reference import Reference
from engine.drivers.ports.registry import Credentials
from engine.drivers.registry.door import WRITE, Ask, Door
from engine.drivers.registry.http import ERROR_BYTES_MAX, bounded, url_of
from engine.errors import Fault, PortError

OCTETS = "application/octet-stream"
WHOLE_BYTES_MAX = 4 << 20
"""Up to this size a blob is sent with the request that ends its upload: one round trip less, and little to lose."""

_HAVING = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_Source = Callable[[int], AsyncIterator[bytes]]


class _Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload under way. place: the URL where it goes on; sent: bytes that the registry has."""

    place: str
    sent: int = 0


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
        self, reference: Reference, descriptor: Descriptor, source: _Source, credentials: Credentials | None
    ) -> None:
        """Five failures without the registry having got any further are given up."""
        start = Ask(
            reference=reference, method="POST", path=f"/v2/{reference.path}/blobs/uploads/", operation="push",
            credentials=credentials, actions=WRITE, headers={"Content-Length": "0"},
        )  # fmt: skip
        upload: _Upload | None = None
        failures = furthest = 0
        while True:
            had = upload.sent if upload is not None else 0
            try:
                upload = upload or await self._begun(start)
                upload = await self._streamed(start, upload, descriptor, source)
                await self._ended(start, upload, descriptor, source)
            except PortError as error:
                # What a registry says of an upload that was resumed may only mean that it cannot resume.
                hopeless = not error.retriable and not (had and error.fault in (Fault.NOT_FOUND, Fault.SYSTEM))
                failures += 1
                if hopeless or failures >= self._attempts:
                    raise
                refused = not error.retriable
            else:
                return
            await trio.sleep(self._backoff_s[failures - 1])
            upload = None if upload is None or refused else await self._state(start, upload, descriptor.size)
            if upload is not None and upload.sent > furthest:
                failures, furthest = 0, upload.sent

    async def _begun(self, start: Ask) -> _Upload:
        answer = await self._once(start)
        return _Upload(place=_place(answer, answer.headers.get("location", "")))

    async def _streamed(self, start: Ask, upload: _Upload, descriptor: Descriptor, source: _Source) -> _Upload:
        """Send what the registry has not, unless it is small and can go with the end."""
        left = descriptor.size - upload.sent
        if not left or (not upload.sent and left <= WHOLE_BYTES_MAX):
            return upload
        headers = {"Content-Type": OCTETS, "Content-Length": str(left)}
        if upload.sent:
            # The first stream of an upload goes without, as Docker's does: not every registry knows Content-Range.
            headers["Content-Range"] = f"{upload.sent}-{descriptor.size - 1}"
        rest = partial(source, upload.sent)
        answer = await self._once(replace(start, method="PATCH", path=upload.place, headers=headers, content=rest))
        return _Upload(place=_place(answer, answer.headers.get("location", "")), sent=descriptor.size)

    async def _ended(self, start: Ask, upload: _Upload, descriptor: Descriptor, source: _Source) -> None:
        path = str(httpx.URL(upload.place).copy_merge_params({"digest": descriptor.digest}))
        left = descriptor.size - upload.sent
        headers = {"Content-Type": OCTETS, "Content-Length": str(left)}
        content = partial(source, upload.sent) if left else None
        await self._once(replace(start, method="PUT", path=path, headers=headers, content=content))

    async def _state(self, start: Ask, upload: _Upload, size: int) -> _Upload | None:
        """How far an upload has got; None when it is to begin anew."""
        ask = replace(start, method="GET", path=upload.place, headers={}, expected=frozenset({200, 204}))
        try:
            answer = await self._once(ask)
        except PortError:
            return None
        having = _HAVING.fullmatch(answer.headers.get("range", ""))
        if having is None or not 0 < int(having[1]) < size:
            return None  # `0-0` is said of nothing and of one byte.
        place = answer.headers.get("location", "")
        return _Upload(place=_place(answer, place) if place else upload.place, sent=int(having[1]) + 1)

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
    return str(url_of(location, response.request.url))
