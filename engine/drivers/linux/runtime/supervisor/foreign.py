"""Containers run by another OCI runtime (runc, crun): its command line, its bundle, its leftovers.

Owns: the bundle in `<exec-root>/bundles/<id>`, the helper process that execs the runtime in a mount namespace of its
own (there the overlay is mounted and the network namespace bound, so neither shows on the host). Refuses to know: who
asked, and processes after their start: they become children of the supervisor, a subreaper, when the runtime exits.
"""

from __future__ import annotations

import array
import os
import resource
import socket

from . import kernel as k
from . import process as p
from . import rootfs
from .child import Settings, Stdio, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Bundle:
    """Paths of one container under a foreign runtime."""

    def __init__(self, exec_root: str, container_id: str, runtime: str, flags: list[str]) -> None:
        self.runtime = runtime
        self.flags = flags
        self.container_id = container_id
        self.path = f"{exec_root}/bundles/{container_id}"
        self.state = f"{exec_root}/{os.path.basename(runtime)}"

    def write(self, config: bytes) -> None:
        """Made anew: what an earlier run left is of no use."""
        self.remove()
        os.makedirs(self.path + "/rootfs", 0o700)
        os.makedirs(self.state, 0o700, exist_ok=True)
        for name, data in (("config.json", config), ("netns", b"")):
            with open(f"{self.path}/{name}", "wb") as file:
                file.write(data)

    def remove(self) -> None:
        for here, folders, files in os.walk(self.path, topdown=False):
            for name in files:
                os.unlink(f"{here}/{name}")
            for name in folders:
                os.rmdir(f"{here}/{name}")
        if os.path.isdir(self.path):
            os.rmdir(self.path)

    def command(self, verb: str, tag: str, *options: str, terminal: bool = False) -> list[str]:
        """tag: distinguishes files of execs from those of the first process."""
        files = ["--pid-file", f"{self.path}/{tag}.pid"]
        if terminal:
            files += ["--console-socket", f"{tag}.sock"]  # relative to the bundle: paths of sockets are short
        return [*self._base(tag), verb, "--detach", *files, *options, self.container_id]

    def delete_command(self) -> list[str]:
        return [*self._base("delete"), "delete", "--force", self.container_id]

    def _base(self, tag: str) -> list[str]:
        log = ["--log", f"{self.path}/{tag}.log", "--log-format", "json"]
        return [self.runtime, *self.flags, "--root", self.state, *log]

    def pid(self, tag: str) -> int:
        with open(f"{self.path}/{tag}.pid") as file:
            return int(file.read())

    def complaint(self, tag: str) -> str:
        """What the runtime logged, as JSON lines; the engine reads them."""
        try:
            with open(f"{self.path}/{tag}.log") as file:
                return file.read(16384)
        except OSError:
            return ""

    def console(self, tag: str) -> socket.socket:
        """Where the runtime sends the terminal's master. AF_UNIX paths are short: bound through the directory."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener.bind(f"/proc/self/fd/{directory}/{tag}.sock")
        os.close(directory)
        listener.listen(1)
        listener.setblocking(False)
        return listener


def received_master(listener: socket.socket) -> int:
    """The descriptor that the runtime has sent before it exited; -1 when it has not."""
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return -1
    with connection:
        _, messages, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, payload in messages:
        fds.frombytes(payload[:4])
    return fds[0] if fds else -1


def fork_runtime(
    command: list[str], stdio: Stdio, settings: Settings, bundle: Bundle, plan: dict[str, Any] | None, netns_fd: int
) -> int:
    """Fork and exec the runtime; its pid. plan: of a start, whose overlay is to be mounted; else None."""
    pid = k.clone3(k.CLONE_NEWNS)
    if pid == 0:
        _child(command, stdio, settings, bundle, plan, netns_fd)
    return pid


def _child(
    command: list[str], stdio: Stdio, settings: Settings, bundle: Bundle, plan: dict[str, Any] | None, netns_fd: int
) -> NoReturn:
    try:
        p.restore_signals(settings.ignored_signals)
        k.mount(None, b"/", None, k.MS_SLAVE | k.MS_REC)
        if plan is not None:
            rootfs.mount_overlay(plan["rootfs"], os.fsencode(bundle.path + "/rootfs"))
            if netns_fd >= 0:
                k.mount(rootfs.through(netns_fd), os.fsencode(bundle.path + "/netns"), None, k.MS_BIND)
            if plan["hidden_cgroup"]:
                # crun takes a v1 host with a v2 mount beside for something it does not support.
                k.umount(os.fsencode(plan["hidden_cgroup"]))
        for number, soft, hard in settings.limits:
            resource.setrlimit(number, (soft, hard))
        place((stdio.stdin, stdio.stdout, stdio.stderr))
        k.close_all_but({0, 1, 2})
        os.chdir(bundle.path)
        os.execve(command[0], command, {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
    except OSError as error:
        words = (error.strerror or str(error)).lower().replace('"', "'")
        with open(command[4], "a") as log:
            log.write('{"level":"error","msg":"' + f"{command[0]}: {words}" + '"}\n')
    finally:
        os._exit(127)
