"""Execs that `exec inspect` can still ask for, by id and by container."""

from __future__ import annotations

from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.exec import DECIDER, ExecState
from engine.projections.states import States


class Execs(States[ExecState]):
    def __init__(self) -> None:
        super().__init__(DECIDER, ExecState)
        self._by_container: dict[str, dict[str, None]] = {}

    def reset(self) -> None:
        super().reset()
        self._by_container.clear()

    def changed(self, key: str, before: ExecState | None, after: ExecState | None) -> None:
        if before is None and after is not None:
            self._by_container.setdefault(after.container_id, {})[key] = None
        elif after is None and before is not None:
            members = self._by_container.get(before.container_id, {})
            members.pop(key, None)
            if not members:
                self._by_container.pop(before.container_id, None)

    def find(self, exec_id: str) -> ExecState:
        """By id or unique prefix. Raises Rejected(NOT_FOUND)."""
        state = self.get(exec_id) or self.by_prefix(exec_id)
        if state is None:
            raise Rejected(Reason.NOT_FOUND, f"No such exec instance: {exec_id}")
        return state

    def of(self, container_id: str) -> list[ExecState]:
        """The execs of a container, oldest first."""
        return [state for key in self._by_container.get(container_id, {}) if (state := self.get(key)) is not None]
