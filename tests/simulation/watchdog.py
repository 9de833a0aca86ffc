"""What waits for ever is told by name, and cut short, so that one seed does not stop a run of thousands.

Reaches into trio: a shield that somebody forgot to lift is what it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import trio


async def free_the_stuck(everything: trio.CancelScope, limit_s: float, tell: Callable[[str], None]) -> None:
    """After `limit_s`, name the tasks that wait (those that only wait for their children are left out), cancel
    `everything`, and lift every shield that would hold it up."""
    await trio.sleep(limit_s)
    root, myself = trio.lowlevel.current_root_task(), trio.lowlevel.current_task()
    assert root is not None
    waiting = [task for task in _tasks(root) if not task.child_nurseries and task is not myself]
    tell(f"never came to an end: {sorted(task.name for task in waiting)}")
    everything.cancel()
    for task in waiting:
        status: Any = task._cancel_status
        while status is not None:
            status._scope.shield, status = False, status._parent


def _tasks(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child)
