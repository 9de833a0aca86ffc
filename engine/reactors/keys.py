"""Keys of removed containers: erased, and with them every sealed value in the log.

Nothing waits for an erasure, and each costs a synced write of the key store, so they are gathered for a second. One
that a crash prevented is found at the next start: a key without a container is nobody's.
"""

from __future__ import annotations

import logging

import trio

from engine.aggregates.container.events import ContainerRemoved
from engine.errors import PortError
from engine.reactors.base import Hands

logger = logging.getLogger("ishmael.keys")
GATHER_S = 1.0
RETRY_S = 60.0


class KeyReactor:
    """Run inside the root nursery."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._doomed: set[str] = set()
        self._more = trio.Event()

    async def run(self, after: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Erase what an earlier engine left, then follow the log from `after`."""
        living = {f"container:{state.container_id}" for state in self._hands.views.containers}
        self._doomed |= set(self._hands.vault.owners()) - living
        if self._doomed:
            self._more.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._erase_forever, name="key erasures")
            task_status.started()
            async for recorded in self._hands.pump.subscribe(after, ContainerRemoved.NAME):
                self._doomed.add(recorded.stream)
                self._more.set()

    async def _erase_forever(self) -> None:
        while True:
            await self._more.wait()
            await trio.sleep(GATHER_S)
            self._more = trio.Event()
            doomed, self._doomed = self._doomed, set()
            try:
                await self._hands.vault.erase(*doomed)
            except PortError as error:
                logger.warning("%d keys could not be erased: %s; again in a minute", len(doomed), error.message)
                self._doomed |= doomed
                self._more.set()
                await trio.sleep(RETRY_S)
