"""Docker's containers as a table of states: what each call answers, and what is visible after it.

Written from the rows CTR-* and moby's daemon (`kill.go`, `start.go`, `stop.go`, `restart.go`, `pause.go`, `rename.go`,
`delete.go`, `monitor.go`, `container_operations.go`), not from the engine's code. It knows one daemon with a handful of
containers that all run the same program (`PROGRAM`): it ends with 143 at SIGTERM, or ignores it; with a code of the
caller's choice when told to by an exec; any other signal is a message to it.

Owns: statuses as clients see them in `State`, and the events of each container, in order. Refuses to know: time,
addresses, ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OK, CREATED, DONE, SAME = 200, 201, 204, 304
BAD, FORBIDDEN, MISSING, CONFLICT, FAILED = 400, 403, 404, 409, 500
UNSTARTED_CODE = 128
BUILTIN = ("bridge", "host", "none")
ANY, ONLY = 0, -1
"""Which network of a name a container wants, beside the number of a particular one."""

PROGRAM = (
    "trap 'exit $(cat /dev/shm/code)' USR1; {term}; trap : HUP; touch /dev/shm/ready; "
    "while :; do sleep 1000 & wait $!; done"
)


def program(*, ignores_term: bool) -> list[str]:
    return ["sh", "-c", PROGRAM.format(term="trap '' TERM" if ignores_term else "trap 'exit 143' TERM")]


@dataclass
class Container:
    """One container as clients see it. mode: `bridge`, a network's name, `host`, `none`, or `container:<key>`."""

    key: str
    name: str
    mode: str
    policy: str = "no"
    retries: int = 0
    auto_remove: bool = False
    ignores_term: bool = False
    status: str = "created"
    exit_code: int = 0
    restart_count: int = 0
    started_before: bool = False
    manually_stopped: bool = False
    networks: dict[str, int] = field(default_factory=dict)
    """Name -> which of the networks of that name: any until the container has been on it."""
    events: list[str] = field(default_factory=list)
    thawed: bool = False
    """A signal thawed it once: whether an `unpause` is told before its end is nobody's promise."""

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused")

    def told(self, *events: str) -> None:
        self.events += events


class Model:
    """Each method is a call; it returns the status of the answer."""

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        """By key: a number that the caller gives at creation, as an id."""
        self.gone: dict[str, Container] = {}
        self.networks: dict[str, int] = {}
        """Name -> the how manieth of all that were made."""
        self.networks_made = 0

    def named(self, name: str) -> Container | None:
        return next((c for c in self.containers.values() if c.name == name), None)

    # -- existence -----------------------------------------------------------------------------------------------------

    def create(self, container: Container) -> int:
        """Rules of the configuration come before the name."""
        if container.auto_remove and container.policy != "no":
            return BAD
        if self.named(container.name) is not None:
            return CONFLICT
        if not container.mode.startswith("container:"):
            container.networks = {container.mode: ANY}
        self.containers[container.key] = container
        container.told("create")
        return CREATED

    def remove(self, name: str, *, force: bool) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if container.running and not force:
            return CONFLICT
        if container.running:
            container.told("kill 9")
            self._ends(container, 137, by_policy=False)
        self._goes(container)
        return DONE

    def prune(self) -> list[str]:
        """The keys that go."""
        gone = [c for c in self.containers.values() if not c.running]
        for container in gone:
            self._goes(container)
        return [container.key for container in gone]

    def rename(self, name: str, new: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if new == name:
            return BAD
        if self.named(new) is not None:
            return CONFLICT
        container.name = new
        container.told("rename")
        return DONE

    def update(self, name: str, policy: str, retries: int) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if container.auto_remove and policy != "no":
            return CONFLICT
        container.policy, container.retries = policy, retries
        container.told("update")
        return OK

    # -- running -------------------------------------------------------------------------------------------------------

    def start(self, name: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if container.status == "paused":
            return CONFLICT
        if container.status == "running":
            return SAME
        status = self._start(container)
        if status == DONE:
            container.restart_count = 0
        return status

    def _start(self, container: Container) -> int:
        """Also what a start that fails leaves: the code, and nothing of a container that removes itself."""
        refused = self._refusal(container)
        if refused:
            container.exit_code = UNSTARTED_CODE
            if container.auto_remove:
                self._goes(container)
            return refused
        container.networks = {name: self.networks.get(name, ONLY) for name in container.networks}
        container.status, container.exit_code = "running", 0
        container.started_before, container.manually_stopped = True, False
        container.told("start")
        return DONE

    def _refusal(self, container: Container) -> int:
        if container.mode.startswith("container:"):
            donor = self.containers.get(container.mode.partition(":")[2])
            if donor is None:
                return FAILED  # Not 404: it is not the container that was asked for.
            return 0 if donor.running else CONFLICT
        return 0 if all(self._found(*wish) for wish in container.networks.items()) else MISSING

    def _found(self, network: str, which: int) -> bool:
        """A container that has been on a network wants that one, not another of its name (getNetworkID)."""
        return network in BUILTIN or (network in self.networks and which in (ANY, self.networks[network]))

    def stop(self, name: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if not container.running:
            return SAME
        self._stops(container)
        container.told("stop")
        container.manually_stopped = True
        self._removes_itself(container)
        return DONE

    def _stops(self, container: Container) -> None:
        container.thawed |= container.status == "paused"
        container.told("kill 15")
        if container.ignores_term:
            container.told("kill 9")
        self._ends(container, 137 if container.ignores_term else 143, by_policy=False)

    def restart(self, name: str) -> int:
        """A stop and a start; a start that can not be is a failure whatever the reason."""
        container = self.named(name)
        if container is None:
            return MISSING
        if container.running:
            self._stops(container)
            container.told("stop")
        status = self._start(container)
        if status != DONE:
            return FAILED
        container.restart_count = 0
        container.told("restart")
        return DONE

    def kill(self, name: str, signal: int) -> int:
        """SIGKILL and the stop signal mean an end, others are messages; each thaws."""
        container = self.named(name)
        if container is None:
            return MISSING
        if not container.running:
            return CONFLICT
        container.thawed |= container.status == "paused"
        container.told(f"kill {signal}")
        if container.status == "paused":
            container.status = "running"
        if signal in (9, 15):
            container.manually_stopped = True
        if signal == 9 or (signal == 15 and not container.ignores_term):
            self._ends(container, 128 + signal, by_policy=False)
            self._removes_itself(container)
        return DONE

    def pause(self, name: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if container.status != "running":
            return CONFLICT
        container.status = "paused"
        container.told("pause")
        return DONE

    def unpause(self, name: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        if container.status != "paused":
            return FAILED
        container.status = "running"
        container.told("unpause")
        return DONE

    def ends_by_itself(self, name: str, code: int) -> None:
        """The program of a running container exits."""
        container = self.named(name)
        assert container is not None
        assert container.status == "running"
        self._ends(container, code, by_policy=True)
        if container.status == "exited":
            self._removes_itself(container)

    def _ends(self, container: Container, code: int, *, by_policy: bool) -> None:
        container.told(f"die {code}")
        container.status, container.exit_code = "exited", code
        if by_policy and self._wants_restart(container):
            count = container.restart_count + 1
            if self._start(container) == DONE:
                container.restart_count = count

    @staticmethod
    def _wants_restart(container: Container) -> bool:
        if container.manually_stopped:
            return False
        if container.policy == "on-failure":
            left = container.retries == 0 or container.restart_count < container.retries
            return container.exit_code != 0 and left
        return container.policy in ("always", "unless-stopped")

    def _removes_itself(self, container: Container) -> None:
        if container.auto_remove:
            self._goes(container)

    def _goes(self, container: Container) -> None:
        container.told("destroy")
        self.gone[container.key] = self.containers.pop(container.key)

    def daemon_restarts(self) -> None:
        """Containers run on. Of those that do not run, policies start what they want; donors first."""
        due = [
            c for c in self.containers.values()
            if not c.running and c.started_before and (c.policy == "always" or self._wants_restart(c))
        ]  # fmt: skip
        for container in sorted(due, key=lambda c: c.mode.startswith("container:")):
            if self._start(container) == DONE:
                container.restart_count = 0

    # -- execs and waits -----------------------------------------------------------------------------------------------

    def exec(self, name: str) -> int:
        container = self.named(name)
        if container is None:
            return MISSING
        return CREATED if container.status == "running" else CONFLICT

    def wait(self, name: str) -> int | None:
        """The code that a wait for "not running" answers at once; None when there is none to ask, or it would wait."""
        container = self.named(name)
        return None if container is None or container.running else container.exit_code

    # -- networks ------------------------------------------------------------------------------------------------------

    def create_network(self, network: str) -> int:
        if network in self.networks:
            return CONFLICT
        self.networks_made += 1
        self.networks[network] = self.networks_made
        return CREATED

    def remove_network(self, network: str) -> int:
        """In use is a network that something running is on."""
        if network not in self.networks:
            return MISSING
        if any(c.running and network in c.networks for c in self.containers.values()):
            return FORBIDDEN
        del self.networks[network]
        return DONE

    def connect(self, network: str, name: str) -> int:
        container = self.named(name)
        if container is None or network not in self.networks:
            return MISSING
        if container.mode == "host" or container.mode.startswith("container:") or "none" in container.networks:
            return BAD
        known = network in container.networks and self._found(network, container.networks[network])
        if known:
            return FORBIDDEN if container.running else OK
        container.networks[network] = self.networks[network] if container.running else ANY
        return OK

    def disconnect(self, network: str, name: str) -> int:
        container = self.named(name)
        if container is None or (container.running and network not in self.networks):
            return MISSING
        if network not in container.networks:
            return FAILED
        del container.networks[network]
        return OK
