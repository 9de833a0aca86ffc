"""Uploads against a registry whose connections break: what it has is not sent again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.aggregates.values.descriptor import Descriptor
from engine.aggregates.values.ids import Digest
from engine.errors import PortError
from tests.drivers.registry.test_client import answer, image_on, impatient, serving

LARGE = random.Random(3).randbytes(9_000_000)


class ResumingRegistry:
    """Takes one upload and breaks its stream after `breaks` bytes each; `states`: whether it knows how far it got;
    `has`: what it received; `asked`: (method, Content-Range, bytes that came)."""

    def __init__(self, breaks: list[int], *, states: bool = True, refuses: int = 0) -> None:
        self.breaks = breaks
        self.states = states
        self.refuses = refuses
        self.has = b""
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, request: Any) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        taken = min(length, self.breaks.pop(0)) if self.breaks and request.command == "PATCH" else length
        body = request.rfile.read(taken)
        self.asked.append((request.command, request.headers.get("Content-Range", ""), taken))
        place = {"Location": f"/v2/library/app/blobs/uploads/1?n={len(self.asked)}"}
        if request.command == "POST":
            self.has = b""
            return answer(request, 202, **place)
        if request.command == "GET":
            told = {"Range": f"0-{max(len(self.has) - 1, 0)}", **place}
            return answer(request, 204, **told) if self.states else answer(request, 404)
        if request.command == "PATCH" and request.headers.get("Content-Range") and self.refuses:
            self.refuses -= 1
            return answer(request, 416)
        self.has += body
        if taken < length:
            request.close_connection = True
            return None
        return answer(request, 202 if request.command == "PATCH" else 201, **place)


async def upload_large(registry: ResumingRegistry) -> None:
    async def source(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(LARGE), 100_000):
            yield LARGE[start : start + 100_000]

    descriptor = Descriptor(
        media_type="", digest=Digest("sha256:" + hashlib.sha256(LARGE).hexdigest()), size=len(LARGE)
    )
    with serving(registry) as server:
        async with impatient() as client:
            await client.push_blob(image_on(server), descriptor, source, None)


async def test_a_broken_upload_goes_on_from_what_the_registry_has() -> None:
    """IMG-05, IMG-07: and is asked anew after each break, also after more breaks than would be tried without any
    progress."""
    registry = ResumingRegistry([2_000_000, 1_000_000, 500_000, 500_000, 500_000, 500_000])
    await upload_large(registry)
    assert registry.has == LARGE
    sent = sum(taken for method, _, taken in registry.asked if method in ("PATCH", "PUT"))
    assert sent == len(LARGE), "no byte twice"
    ranges = [span for method, span, _ in registry.asked if method == "PATCH"]
    assert ranges[:3] == ["", f"2000000-{len(LARGE) - 1}", f"3000000-{len(LARGE) - 1}"]
    assert [method for method, _, _ in registry.asked].count("POST") == 1


@pytest.mark.parametrize("registry", [ResumingRegistry([1_000_000], states=False), ResumingRegistry([9], refuses=1)])
async def test_a_registry_that_can_not_resume_gets_the_blob_anew(registry: ResumingRegistry) -> None:
    """IMG-05: one that has forgotten the upload, and one that takes no ranges."""
    await upload_large(registry)
    assert registry.has == LARGE
    assert [method for method, _, _ in registry.asked].count("POST") == 2


async def test_an_upload_that_never_gets_further_is_given_up() -> None:
    """IMG-05."""
    registry = ResumingRegistry([1_000_000, *[0] * 20])
    with pytest.raises(PortError):
        await upload_large(registry)
    assert [method for method, _, _ in registry.asked].count("PATCH") == 6
