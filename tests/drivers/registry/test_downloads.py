"""Reading a URL for `docker import`: what servers answer, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import Fault, PortError
from tests.drivers.registry.test_client import answer, impatient, serving
from tests.support.registry import free_port


async def read(client: Any, url: str) -> tuple[int, bytes]:
    async with client.download(url) as content:
        return content.size, b"".join([chunk async for chunk in content.chunks])


async def test_a_url_is_read_with_the_size_its_server_tells() -> None:
    """IMG-16."""
    with serving(lambda request: answer(request, 200, b"a tar")) as server:
        async with impatient() as client:
            assert await read(client, f"http://{server.address}/root.tar?x=1") == (5, b"a tar")
        assert [path for path, _ in server.seen] == ["/root.tar?x=1"]


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.INVALID),
        (401, Fault.UNAUTHORIZED),
        (403, Fault.FORBIDDEN),
        (404, Fault.NOT_FOUND),
        (500, Fault.SYSTEM),
    ],
)
async def test_a_refusal_is_told_with_what_the_server_said(status: int, fault: Fault) -> None:
    """IMG-16."""
    with serving(lambda request: answer(request, status, b" no such thing\n")) as server:
        async with impatient() as client:
            with pytest.raises(PortError) as refused:
                await read(client, f"http://{server.address}/x")
    assert refused.value.fault is fault
    assert refused.value.message.startswith(f"failed to GET http://{server.address}/x with status {status} ")
    assert refused.value.message.endswith(": no such thing")


async def test_what_is_no_url_or_nobody_serves_is_refused_in_words() -> None:
    """IMG-16."""
    async with impatient() as client:
        for url, words in (
            ("ftp://host/x", 'unsupported protocol scheme "ftp"'),
            ("file:///etc/passwd", 'unsupported protocol scheme "file"'),
            ("http:///x", "no Host in request URL"),
            (f"http://127.0.0.1:{free_port()}/x", "connect: connection refused"),
        ):
            with pytest.raises(PortError, match=words):
                await read(client, url)
