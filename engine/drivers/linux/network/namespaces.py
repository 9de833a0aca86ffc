"""Network namespaces: a thread that may enter them, and a pool of ready ones.

Owns: every `unshare` and `setns` of the engine. They change the calling thread only, so they happen on threads of this
module, never on the loop's, and each job ends back in the namespace the thread was started in.
Refuses to know: what a job does there.

Namespaces have no names: they are file descriptors, and an engine that dies leaves none behind.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
import outcome
import trio

from engine.aggregates.values.id_map import IdMap
from engine.aggregates.values.sysctls import sysctl_path
from engine.drivers.linux import user_namespaces
from engine.drivers.linux.network import links, netlink

T = TypeVar("T")

_LIBC = ctypes.CDLL(None, use_errno=True)  # a handle; looking it up for every call would double the cost of setns
_CLONE_NEWNET = 0x40000000
UNUSED_INTERFACE = "unused"
_LOOPBACK_INDEX = 1
_REFILL_DELAY_S = 0.03


class _Job(Generic[T]):
    """A call waiting for its thread, and then its result waiting for the loop."""

    __slots__ = ("done", "function", "netns_fd", "result", "token")

    def __init__(self, function: Callable[[], T], netns_fd: int) -> None:
        self.function = function
        self.netns_fd = netns_fd
        self.token = trio.lowlevel.current_trio_token()
        self.done = trio.Event()
        self.result: outcome.Outcome[T] | None = None


class NamespaceThread:
    """One thread, its home namespace, and a queue of jobs done one after another."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The thread is made here and so inherits the caller's network namespace: its home."""
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish what is queued, then end. Waits for it: jobs are bounded by the kernel."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    async def call(self, function: Callable[[], T], *, netns_fd: int = -1) -> T:
        """Run `function` on the thread, inside the namespace if one is given. Not cancellable once queued: a job takes
        milliseconds and half a job would leave half an endpoint."""
        if self._thread is None:
            raise RuntimeError(f"{self._name} is not running")
        job = _Job(function, netns_fd)
        self._jobs.put(job)
        with trio.CancelScope(shield=True):
            await job.done.wait()
        assert job.result is not None
        result: T = job.result.unwrap()
        return result

    def _work(self) -> None:
        home = open_current()
        try:
            while (job := self._jobs.get()) is not None:
                job.result = outcome.capture(self._enter_and_call, job, home)
                with contextlib.suppress(trio.RunFinishedError):
                    job.token.run_sync_soon(job.done.set)
        finally:
            os.close(home)

    @staticmethod
    def _enter_and_call(job: _Job[T], home: int) -> T:
        if job.netns_fd < 0:
            return job.function()
        with entered(job.netns_fd, home):
            return job.function()


@contextlib.contextmanager
def entered(netns_fd: int, home: int) -> Iterator[None]:
    """The calling thread is in the namespace, and at home again afterwards."""
    _set_namespace(netns_fd)
    try:
        yield
    finally:
        _set_namespace(home)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """The calling thread is in an empty namespace that ends with the block, and at home again afterwards."""
    home = open_current()
    try:
        _unshare()
        yield
    finally:
        _set_namespace(home)
        os.close(home)


def open_current() -> int:
    """The calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_of_process(pid: int) -> int:
    """A process's network namespace. Raises OSError when the process is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set_namespace(netns_fd: int) -> None:
    if _LIBC.setns(netns_fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _unshare() -> None:
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


class Veth(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of interfaces, both down: one index at home, one inside a sandbox."""

    outside: int
    inside: int


class ReadySandbox:
    """A fresh namespace with lo up: its fd, a routing socket inside it, and a veth pair into it that nobody uses yet.
    Whoever takes it closes both."""

    __slots__ = ("netns_fd", "route", "veth")

    def __init__(self, netns_fd: int, route: socket.socket, veth: Veth) -> None:
        self.netns_fd = netns_fd
        self.route = route
        self.veth = veth

    def close(self) -> None:
        """When nobody else holds the namespace, the kernel destroys it, and the veth pair with it."""
        os.close(self.netns_fd)
        self.route.close()


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The user namespace that a network namespace belongs to: the engine's own, a new one with a map, or the one of the
    process `beside`."""

    id_map: IdMap | None = None
    beside: int = 0

    def new_namespace(self) -> int:
        if self.beside:
            return user_namespaces.network_namespace_beside(self.beside)
        assert self.id_map is not None, "the engine's own are made otherwise"
        return user_namespaces.new_network_namespace(self.id_map)


OURS = Owner()


def make_veth(home: socket.socket, inside: socket.socket, netns_fd: int) -> Veth:
    """A pair that nobody uses yet, from the namespace of `home` into the one of `inside`."""
    netlink.transact(home, [links.new_veth("ishmael%d", UNUSED_INTERFACE, netns_fd)])
    peer = links.find(inside, UNUSED_INTERFACE)
    assert peer is not None, "the peer of a veth just made is there"
    return Veth(outside=peer.peer, inside=peer.index)


def make_sandbox(sysctls: Mapping[str, str], owner: Owner = OURS) -> ReadySandbox:
    """Make a namespace; runs on a NamespaceThread, at home before and after."""
    with contextlib.closing(netlink.open_socket(netlink.ROUTE)) as outside:
        netns_fd, route = _make(sysctls, owner)
        return ReadySandbox(netns_fd, route, make_veth(outside, route, netns_fd))


def make_bare(sysctls: Mapping[str, str], owner: Owner = OURS) -> int:
    """A namespace with lo up and nothing else, for a container without endpoints: its fd. Runs on a NamespaceThread.
    The pool's will not do: taking the unused veth out of one costs 30 ms."""
    netns_fd, route = _make(sysctls, owner)
    route.close()
    return netns_fd


def _make(sysctls: Mapping[str, str], owner: Owner) -> tuple[int, socket.socket]:
    """A namespace with lo up and `sysctls` written, and a routing socket inside."""
    home = open_current()
    netns_fd = -1
    try:
        if owner == OURS:
            _unshare()
            netns_fd = open_current()
        else:
            netns_fd = owner.new_namespace()
            _set_namespace(netns_fd)
        try:
            write_sysctls(sysctls)
            route = netlink.open_socket(netlink.ROUTE)
        finally:
            _set_namespace(home)
        netlink.transact(route, [links.set_link(_LOOPBACK_INDEX, up=True)])
    except BaseException:
        if netns_fd >= 0:
            os.close(netns_fd)
        raise
    finally:
        os.close(home)
    return netns_fd, route


def write_sysctls(sysctls: Mapping[str, str]) -> None:
    """Write `net.ipv4.x=1` and the like for the calling thread's namespace. Raises OSError naming the file."""
    for name, value in sysctls.items():
        path = sysctl_path(name)
        try:
            with open(path, "w") as file:
                file.write(value)
        except OSError as error:
            error.filename = path  # what the kernel thinks of a value comes with the write, without a name
            raise


class SandboxPool:
    """Ready sandboxes, `size` of them, filled again in the background."""

    def __init__(
        self, thread: NamespaceThread, size: int, sysctls: Mapping[str, str], id_map: IdMap | None = None
    ) -> None:
        self._owner = Owner(id_map=id_map)
        self._thread = thread
        self._size = size
        self._sysctls = dict(sysctls)
        self._ready: collections.deque[ReadySandbox] = collections.deque()
        self._wanted = trio.Event()

    @property
    def veths(self) -> frozenset[int]:
        """Indexes of the host's ends of the unused pairs."""
        return frozenset(ready.veth.outside for ready in list(self._ready))

    async def take(self, owner: Owner = OURS) -> ReadySandbox:
        """A ready one, or a new one when the pool is empty, or its namespaces are another user's."""
        if owner != self._owner:
            return await self._thread.call(lambda: make_sandbox(self._sysctls, owner))
        self._wanted.set()
        if self._ready:
            return self._ready.popleft()
        return await self._make()

    async def _make(self) -> ReadySandbox:
        return await self._thread.call(lambda: make_sandbox(self._sysctls, self._owner))

    async def run(self) -> None:
        """Keep the pool full until cancelled; then give its namespaces back."""
        try:
            while True:
                while len(self._ready) < self._size:
                    self._ready.append(await self._make())
                self._wanted = trio.Event()
                await self._wanted.wait()
                # Whoever took one is about to start a container: making the next one now would contend with that for
                # the RTNL lock and the interpreter (3.0 ms a join instead of 2.1).
                await trio.sleep(_REFILL_DELAY_S)
        finally:
            while self._ready:
                self._ready.pop().close()
