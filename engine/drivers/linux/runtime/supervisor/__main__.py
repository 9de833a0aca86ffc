"""`python -S -E -I .../supervisor/__main__.py <exec-root> <data-root>`: become a daemon, then the supervisor.

The command returns 0 once a supervisor listens on `<exec-root>/supervisor.sock`, be it this one or one that lives
already (a lock file decides); errors before that are on stderr with status 1. 2: it was killed before it could say.
"""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .server import Supervisor

def main(exec_root: str, data_root: str) -> None:
    os.makedirs(exec_root, 0o711, exist_ok=True)
    os.makedirs(data_root + "/supervisor/exits", 0o700, exist_ok=True)
    ready, telling = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(telling)
        word = os.read(ready, 4096)
        if word != b"ready":
            sys.stderr.write(word.decode(errors="replace") or "the supervisor did not start\n")
        os._exit(0 if word == b"ready" else 1 if word else 2)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(ready)
    try:
        supervisor = prepared(exec_root, data_root, telling)
    except BaseException as error:
        os.write(telling, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    try:
        os.write(telling, b"ready")
    except BrokenPipeError:
        pass  # whoever waited for it was killed: the next one finds us here
    finally:
        os.close(telling)
    try:
        supervisor.run()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # to supervisor.log: the log of last resort
    os._exit(0)


def prepared(exec_root: str, data_root: str, telling: int) -> Supervisor:
    """Everything that can fail at a start. Ends the process when another supervisor lives."""
    lock = os.open(exec_root + "/supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(telling, b"ready")
        os._exit(0)
    # Run as a script, this package is found beside its parent directory, not as a part of `engine`.
    from supervisor import kernel, server  # type: ignore[import-not-found] # only there at run time

    path = exec_root + "/supervisor.sock"
    if os.path.exists(path):
        os.unlink(path)
    with open("/proc/self/comm", "w") as comm:
        comm.write("supervisor")  # it was run by a descriptor's number
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(16)
    os.umask(0o022)
    os.chdir("/")
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    _redirect(exec_root + "/supervisor.log")
    supervisor: Supervisor = server.Supervisor(listener, exec_root, data_root)
    supervisor.prepare()
    gc.collect()
    gc.freeze()
    gc.disable()
    return supervisor


def _redirect(log: str) -> None:
    """stdin from /dev/null; what a dying supervisor prints is kept."""
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, fd in enumerate((null, out, out)):
        os.dup2(fd, number)
        os.set_inheritable(number, True)
    os.close(null)
    os.close(out)


if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main(sys.argv[1], sys.argv[2])
