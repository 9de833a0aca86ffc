"""Random lives of every aggregate: whatever is asked in whatever order, what must never be is not.

Each machine executes commands on tests/support/memory.py, which sends every event through the codec. A refusal is as
good as a grant; after every step the fold of what was saved is the fold that lives, and at the end the aggregate can
still be brought to its end.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from engine.aggregates import exec as exec_
from engine.aggregates import names, network, ports
from engine.aggregates.container import commands as c
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Command, Rejected
from engine.aggregates.names import NameKind
from engine.aggregates.values.config import RestartPolicy
from engine.aggregates.values.endpoints import PortWish
from engine.aggregates.values.subnet import Pool
from tests.aggregates import test_exec, test_image, test_network, test_transfer, test_volume
from tests.aggregates.container import lives
from tests.support.memory import Memory

OWNERS = [f"{number:064x}" for number in range(1, 7)]
QUICK = settings(max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck))


class Machine(RuleBasedStateMachine):
    """Executes commands; a refusal must have changed nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    def tell(self, *commands: Command) -> bool:
        """Whether they were granted."""
        before = len(self.memory.log)
        try:
            self.memory.execute(*commands)
        except Rejected as error:
            assert error.message or error.reason.value == "not modified"
            assert len(self.memory.log) == before
            return False
        return True

    @invariant()
    def saved_and_live_are_one(self) -> None:
        self.memory.check()


class ContainerLife(Machine):
    @property
    def state(self) -> ContainerState:
        state = self.memory.state("container", lives.ID)
        assert isinstance(state, ContainerState)
        return state

    @precondition(lambda self: self.state.status is Status.ABSENT)
    @rule(auto_remove=st.booleans(), policy=st.sampled_from(["no", "always", "on-failure", "unless-stopped"]))
    def create(self, auto_remove: bool, policy: str) -> None:
        given = {} if auto_remove else {"restart_policy": RestartPolicy(name=policy)}
        self.tell(lives.create(auto_remove=auto_remove, **given))

    @rule(
        command=st.sampled_from(
            [lives.START, lives.RESTART, lives.PAUSE, lives.UNPAUSE, lives.stop(), lives.stop(0), lives.kill()]
            + [lives.kill(15), lives.kill(1), lives.remove(), lives.remove(force=True)]
        )
    )
    def wish(self, command: Command) -> None:
        self.tell(command)

    @rule(name=st.sampled_from(["web", "shop"]))
    def rename(self, name: str) -> None:
        self.tell(c.RenameContainer(container_id=lives.ID, name=name))

    @rule(command=st.sampled_from([lives.UPDATE, lives.CONNECT, lives.DISCONNECT, lives.COMMIT, lives.NOTE]))
    def change(self, command: Command) -> None:
        self.tell(command)

    @precondition(lambda self: self.state.status is not Status.ABSENT)
    @rule(
        command=st.sampled_from(
            [lives.started(), lives.failed(), lives.exited(), lives.exited(code=1), lives.HEALTH, lives.REPORT_PAUSED]
            + [lives.REPORT_UNPAUSED, lives.REPORT_FREEZE_FAILED, lives.CONNECTED, lives.CONNECT_FAILED]
            + [lives.REPORT_UPDATED, lives.REPORT_UPDATE_FAILED]
            + [lives.DISCONNECTED, lives.COMMITTED, lives.COMMIT_FAILED, lives.OVERDUE]
        ),
        late=st.sampled_from([0, 0, 0, 1]),
    )
    def report(self, command: Any, late: int) -> None:
        if hasattr(command, "run"):
            command = replace(command, run=self.state.run - late)
        if hasattr(command, "update"):
            command = replace(command, update=self.state.updates - late)
        assert self.tell(command), "a report is never refused"

    @invariant()
    def a_process_is_known_while_it_lives(self) -> None:
        state = self.state
        assert state.alive == (state.pid > 0)
        assert not state.endpoints or state.alive
        assert not (state.connecting or state.disconnecting or state.updating) or state.alive

    @invariant()
    def starts_are_settled_one_by_one(self) -> None:
        state = self.state
        assert state.starting == (state.settled_runs < state.run)
        assert state.run - state.settled_runs in (0, 1)

    @invariant()
    def a_wait_for_a_restart_has_a_deadline(self) -> None:
        assert (self.state.restart_due_at > 0) == (self.state.status is Status.RESTARTING)

    @invariant()
    def nobody_waits_to_stop_what_does_not_run(self) -> None:
        ending = self.state.status in (Status.REMOVING, Status.REMOVED)
        assert self.state.stop is None or self.state.alive or ending

    def teardown(self) -> None:
        """From wherever it got to, a container can be brought to its end by what the world reports."""
        if self.state.status is Status.ABSENT:
            return
        for answer in (
            replace(lives.failed(), run=self.state.run),
            lives.REPORT_PAUSED,
            lives.REPORT_UNPAUSED,
        ):
            self.tell(answer)
        self.tell(lives.remove(force=True))
        self.tell(replace(lives.exited(), run=self.state.run))
        self.tell(lives.REPORT_REMOVED)
        assert self.state.status is Status.REMOVED
        for command in (lives.START, lives.remove(force=True), lives.create()):
            assert not self.tell(command)


class NetworkLife(Machine):
    """Six addresses of IPv4 (a gateway, an auxiliary one), plenty of IPv6, six containers."""

    POOLS = (
        Pool(subnet="172.18.0.0/29", gateway="172.18.0.1", auxiliary={"router": "172.18.0.6"}),
        Pool(subnet="fd00::/64", gateway="fd00::1", ip_range="fd00::8/125"),
    )
    RESERVED = frozenset({"172.18.0.0", "172.18.0.1", "172.18.0.6", "172.18.0.7", "fd00::1", "fd00::"})

    def __init__(self) -> None:
        super().__init__()
        self.tell(test_network.create(*self.POOLS, enable_ipv6=True), test_network.READY)

    @property
    def state(self) -> network.NetworkState:
        state = self.memory.state("network", test_network.ID)
        assert isinstance(state, network.NetworkState)
        return state

    @rule(
        owner=st.sampled_from(OWNERS),
        address=st.sampled_from(["", "", *(f"172.18.0.{n}" for n in range(8)), "10.0.0.1"]),
        ipv6_address=st.sampled_from(["", "", "fd00::1", "fd00:0:0::1", "fd00::8", "fd00::9", "fd00::ff", "fe80::1"]),
    )
    def allocate(self, owner: str, address: str, ipv6_address: str) -> None:
        command = test_network.allocate(owner, address=address, ipv6_address=ipv6_address)
        self.tell(replace(command, endpoint_id=owner[::-1]))

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: str) -> None:
        assert self.tell(network.ReleaseEndpoint(network_id=test_network.ID, container_id=owner))

    @rule(command=st.sampled_from([test_network.CREATE, test_network.READY, test_network.FAILED]))
    def repeat(self, command: Command) -> None:
        assert self.tell(command)

    @precondition(lambda self: self.state.endpoints)
    @rule()
    def remove_too_early(self) -> None:
        assert not self.tell(test_network.REMOVE)

    @invariant()
    def no_address_is_used_twice_and_none_that_is_kept(self) -> None:
        held = self.state.endpoints.values()
        given = [address for endpoint in held for address in (endpoint.ipv4_address, endpoint.ipv6_address)]
        assert max(Counter(given).values(), default=0) <= 1
        assert self.RESERVED.isdisjoint(given)
        for endpoint in held:
            assert ipaddress.ip_address(endpoint.ipv4_address) in ipaddress.ip_network("172.18.0.0/29")
            assert ipaddress.ip_address(endpoint.ipv6_address) in ipaddress.ip_network("fd00::/64")

    def teardown(self) -> None:
        """No address has leaked: when everybody left, every one can be given again, and then the network removed."""
        for owner in OWNERS:
            self.release(owner)
        for owner in OWNERS[:4]:
            assert self.tell(test_network.allocate(owner))
        assert {each.ipv4_address for each in self.state.endpoints.values()} == {f"172.18.0.{n}" for n in (2, 3, 4, 5)}
        for owner in OWNERS:
            self.release(owner)
        assert self.tell(test_network.REMOVE, test_network.REMOVED)


class PortLedger(Machine):
    ADDRESSES = ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "::1"]

    @property
    def state(self) -> ports.PortState:
        state = self.memory.state("ports", ports.STREAM_KEY)
        assert isinstance(state, ports.PortState)
        return state

    wishes = st.builds(
        lambda ip, first, span, container, protocol: PortWish(
            host_ip=ip,
            first_port=first,
            last_port=first + span if first else 0,
            container_port=container,
            protocol=protocol,
        ),
        st.sampled_from(ADDRESSES),
        st.sampled_from([0, 0, 80, 81, 40000]),
        st.integers(0, 2),
        st.sampled_from([80, 443]),
        st.sampled_from(["tcp", "udp"]),
    )
    dual_stack = wishes.map(lambda wish: [replace(wish, host_ip="0.0.0.0"), replace(wish, host_ip="::")])

    @rule(owner=st.sampled_from(OWNERS), groups=st.lists(dual_stack | wishes.map(lambda wish: [wish]), max_size=3))
    def reserve(self, owner: str, groups: list[list[PortWish]]) -> None:
        wished = tuple(wish for group in groups for wish in group)
        held = self.state.held.get(owner)
        granted = self.tell(
            ports.ReservePorts(container_id=owner, wishes=wished, ephemeral_first=40000, ephemeral_last=40003)
        )
        given = self.state.held.get(owner, ())
        if held is not None:
            assert given == held
        elif granted:
            assert len(given) == len(wished)
            for wish, port in zip(wished, given, strict=True):
                first, last = (wish.first_port, wish.last_port) if wish.first_port else (40000, 40003)
                assert first <= port.host_port <= last
                assert (port.host_ip, port.container_port) == (wish.host_ip, wish.container_port)
            starts = [sum(len(group) for group in groups[:index]) for index in range(len(groups))]
            for start, group in zip(starts, groups, strict=True):
                assert len({port.host_port for port in given[start : start + len(group)]}) == 1

    @rule(owner=st.sampled_from(OWNERS))
    def release(self, owner: str) -> None:
        assert self.tell(ports.ReleasePorts(container_id=owner))

    @invariant()
    def no_port_is_published_twice(self) -> None:
        held = [port for of_one in self.state.held.values() for port in of_one]
        for index, one in enumerate(held):
            for other in held[index + 1 :]:
                if (one.protocol, one.host_port) != (other.protocol, other.host_port):
                    continue
                mine, yours = ipaddress.ip_address(one.host_ip), ipaddress.ip_address(other.host_ip)
                if mine.version == yours.version:
                    assert mine != yours
                    assert not mine.is_unspecified
                    assert not yours.is_unspecified

    def teardown(self) -> None:
        """Nothing leaks: when everybody gave back, every ephemeral port can be had again."""
        for owner in OWNERS:
            self.release(owner)
        wish = PortWish(host_ip="0.0.0.0", first_port=0, last_port=0, container_port=80)
        everything = tuple(replace(wish, container_port=number) for number in range(1, 5))
        assert self.tell(
            ports.ReservePorts(container_id=OWNERS[0], wishes=everything, ephemeral_first=40000, ephemeral_last=40003)
        )


class NameLedger(Machine):
    KINDS = st.sampled_from(NameKind)
    NAMES = st.sampled_from(["a", "b"])
    WHO = st.sampled_from(OWNERS[:3])

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[NameKind, str], str] = {}

    @rule(kind=KINDS, name=NAMES, owner=WHO)
    def reserve(self, kind: NameKind, name: str, owner: str) -> None:
        granted = self.tell(names.ReserveName(kind=kind, name=name, owner=owner))
        assert granted == (self.model.get((kind, name), owner) == owner)
        if granted:
            self.model[kind, name] = owner

    @rule(kind=KINDS, name=NAMES, owner=WHO)
    def move(self, kind: NameKind, name: str, owner: str) -> None:
        assert self.tell(names.MoveName(kind=kind, name=name, owner=owner))
        self.model[kind, name] = owner

    @rule(kind=KINDS, name=NAMES, owner=WHO)
    def release(self, kind: NameKind, name: str, owner: str) -> None:
        assert self.tell(names.ReleaseName(kind=kind, name=name, owner=owner))
        if self.model.get((kind, name)) == owner:
            del self.model[kind, name]

    @invariant()
    def a_name_has_the_owner_that_the_model_says(self) -> None:
        for kind in NameKind:
            for name in ("a", "b"):
                owner = self.memory.state("name", names.name_key(kind, name)).owner
                assert owner == self.model.get((kind, name), "")


class SmallLives(Machine):
    """Exec, image, transfer, volume: any of their commands, in any order."""

    @rule(
        command=st.sampled_from(
            [test_exec.START, test_exec.STARTED, test_exec.EXITED, test_exec.REMOVE]
            + [test_transfer.DONE, test_transfer.FAILED, test_transfer.CUT, test_transfer.RELEASE]
            + [test_image.ADD, test_image.NAME, test_image.UNNAME, test_image.RECORD, test_image.REQUIRE]
            + [test_image.REMOVE, test_image.REMOVED]
            + [test_volume.CREATE, test_volume.USE, test_volume.USE_TOO, test_volume.LEAVE, test_volume.REMOVE]
            + [test_volume.REMOVED, test_volume.REMOVE_FAILED, test_volume.OF_NFS]
        )
    )
    def any_command(self, command: Command) -> None:
        granted = self.tell(command)
        assert granted or not type(command).__name__.startswith("Report")

    @precondition(lambda self: self.memory.state("exec", test_exec.ID).status is exec_.ExecStatus.ABSENT)
    @rule()
    def create_exec(self) -> None:
        assert self.tell(test_exec.CREATE)

    @precondition(lambda self: not self.memory.state("transfer", "t1").kind)
    @rule()
    def begin_transfer(self) -> None:
        assert self.tell(test_transfer.BEGIN)

    @invariant()
    def what_is_being_removed_has_no_user_and_no_name(self) -> None:
        volume = self.memory.state("volume", "data")
        assert volume.status.value == "ready" or not volume.references
        image = self.memory.state("image", test_image.ID)
        assert image.status.value == "ready" or not image.references | image.repository_digests


TestContainerLife = ContainerLife.TestCase
TestNetworkLife = NetworkLife.TestCase
TestPortLedger = PortLedger.TestCase
TestNameLedger = NameLedger.TestCase
TestSmallLives = SmallLives.TestCase
for _case in (TestContainerLife, TestNetworkLife, TestPortLedger, TestNameLedger, TestSmallLives):
    _case.settings = QUICK
del _case
