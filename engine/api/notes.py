"""What clients do that changes no state and is told by `/events` all the same: attach, top, export, resize, ...

A note is an event like any other (docs/decisions/0007-notes.md); it never makes its request fail or wait: who looked at
a container that went meanwhile, or while the disk is full, has looked.
"""

from __future__ import annotations

import logging

from engine.aggregates.container.commands import NoteContainer
from engine.aggregates.decider import Cause, Rejected
from engine.aggregates.values.ids import ContainerID
from engine.api.context import ApiContext
from engine.errors import PortError

logger = logging.getLogger("ishmael.notes")


async def note(context: ApiContext, container_id: ContainerID, cause: Cause, action: str, **attributes: str) -> None:
    """Tell that `action` was done with a container."""
    command = NoteContainer(container_id=container_id, action=action, attributes=attributes)
    try:
        await context.application.execute(command, cause=cause)
    except Rejected:
        return  # it was removed meanwhile
    except PortError as error:
        logger.warning("a note can not be written down: %s", error.message)
