"""Searching against a server that answers as version 1 registries do, or does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.drivers.ports.registry import SearchResult
from engine.errors import Fault, PortError
from tests.drivers.registry.test_client import AHAB, answer, impatient, serving
from tests.support.registry import free_port

FOUND = {"name": "white/whale", "description": "big", "star_count": 7, "is_official": False, "is_automated": True}


async def test_a_search_asks_for_the_term_and_gives_what_was_found() -> None:
    """IMG-17."""

    def handle(request: Any) -> None:
        return answer(request, 200, json.dumps({"num_results": 1, "query": "x", "results": [FOUND]}).encode())

    with serving(handle) as server:
        async with impatient() as client:
            found = await client.search(server.address, "a b&c", 25, AHAB)
        assert [path for path, _ in server.seen] == ["/v1/search?q=a+b%26c&n=25"]
        assert "Authorization" not in server.seen[0][1], "nobody asked for it"
    assert found == (
        SearchResult(name="white/whale", description="big", star_count=7, is_official=False, is_automated=True),
    )


async def test_credentials_go_to_who_demands_them() -> None:
    """IMG-17."""

    def handle(request: Any) -> None:
        if not request.headers.get("Authorization"):
            return answer(request, 401, b"", WWW_Authenticate='Basic realm="sea"')
        return answer(request, 200, b'{"results": null}')

    with serving(handle) as server:
        async with impatient() as client:
            assert await client.search(server.address, "whale", 1, AHAB) == ()
            with pytest.raises(PortError, match="unexpected status code 401"):
                await client.search(server.address, "whale", 1, None)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"{}", "unexpected status code 404"),
        (200, b"<html>", "error decoding registry search results"),
        (200, b'{"results": [{"star_count": "many"}]}', "error decoding registry search results"),
    ],
)
async def test_what_is_no_answer_is_refused(status: int, body: bytes, words: str) -> None:
    """IMG-17."""
    with serving(lambda request: answer(request, status, body)) as server:
        async with impatient() as client:
            with pytest.raises(PortError, match=words) as refused:
                await client.search(server.address, "whale", 1, None)
    assert refused.value.fault is Fault.SYSTEM


async def test_a_registry_that_is_not_there_is_bad_input() -> None:
    """IMG-17."""
    nobody = f"127.0.0.1:{free_port()}"
    async with impatient() as client:
        with pytest.raises(PortError, match=f'invalid registry endpoint "http://{nobody}/v1/"') as refused:
            await client.search(nobody, "whale", 1, None)
    assert refused.value.fault is Fault.INVALID
    assert refused.value.message.count("connection refused") == 2
