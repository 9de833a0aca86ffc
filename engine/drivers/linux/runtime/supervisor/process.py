"""The last steps before exec: limits, capabilities, user, seccomp, terminal, and finding the program.

Owns: their order, which is the heart of the matter. The filter is loaded as late as its capability allows, and after
it come only capset and execve, so a narrow profile needs to allow no more than it must for any runtime.
Refuses to know: namespaces and mounts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import struct
import termios

from . import kernel as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441
PTMX = os.makedev(5, 2)
LAST_CAPABILITY = 40
_TO_FILTER = 1 << 21 | 1 << 8
"""CAP_SYS_ADMIN and CAP_SETPCAP, by which a user other than root loads a filter."""


class ExecError(Exception):
    """The program cannot be run. `exit_code` 126 or 127, the message in the words clients know from runc."""

    def __init__(self, message: str, exit_code: int, number: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.number = number


def open_terminal(process: dict[str, Any], height: int, width: int, *, console: bool) -> tuple[int, int]:
    """A pseudo-terminal of the container's own devpts: (master, slave), the slave also bound to /dev/console.

    The container may have put anything at these places (a volume on /dev), so the master must be one, the slave comes
    from it and not from a path, and no link is followed to the console (CVE-2025-52565)."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if os.fstat(master).st_rdev != PTMX or k.filesystem_type(master) != k.DEVPTS_MAGIC:
        raise ExecError("/dev/pts/ptmx is not a terminal multiplexer", 128, errno.ENOTTY)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if process["uid"]:
        os.fchown(slave, process["uid"], -1)
    if height or width:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", height, width, 0, 0))
    if console:
        bind_console(slave)
    return master, slave


def bind_console(slave: int) -> None:
    try:
        made = os.open("/dev/console", os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        made = -1
    if made >= 0:
        os.close(made)
    target = os.open("/dev/console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if stat.S_ISLNK(os.fstat(target).st_mode):
        raise ExecError("/dev/console is a symbolic link", 128, errno.ELOOP)
    tree = k.open_tree(b"", recursive=False, dir_fd=slave)
    k.move_mount(tree, target)
    os.close(tree)
    os.close(target)


def take_terminal(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def set_limits(process: dict[str, Any]) -> None:
    for number, soft, hard in process["rlimits"]:
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError) as error:  # ValueError: above what the system allows
            words = f"error setting rlimits for ready process: error setting rlimit type {number}"
            raise ExecError(f"{words}: operation not permitted", 128, errno.EPERM) from error


def become(process: dict[str, Any]) -> None:
    """Turn into the user, with the capabilities still in reach that loading the filter needs."""
    bounding = process["bounding"]
    for capability in range(LAST_CAPABILITY + 1):
        if not bounding >> capability & 1:
            try:
                k.prctl(k.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a capability this kernel does not know yet
                    raise
    os.setgroups(process["groups"])
    os.setresgid(process["gid"], process["gid"], process["gid"])
    if process["uid"]:
        k.prctl(k.PR_SET_KEEPCAPS, 1)
        os.setresuid(process["uid"], process["uid"], process["uid"])
    if process["umask"] >= 0:
        os.umask(process["umask"])


def filter_early(process: dict[str, Any]) -> None:
    """Load the filter before the last steps (it takes a millisecond), if it lets them pass; `seal` does the rest."""
    if not process["seccomp"] or not process["seccomp_early"]:
        return
    if process["no_new_privileges"]:
        k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
    _load_filter(process)
    if process["uid"]:
        k.capset(0, _TO_FILTER | process["permitted"], 0)  # as it was: the steps that follow are those of the user
    process["seccomp"] = b""


def seal(process: dict[str, Any]) -> None:
    """Filter and final capabilities: nothing but execve comes after."""
    if process["no_new_privileges"]:
        k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        _set_capabilities(process)
        if process["seccomp"]:
            k.load_seccomp(process["seccomp"], process["seccomp_flags"])
        return
    if process["seccomp"]:
        _load_filter(process)
    _set_capabilities(process)


def _load_filter(process: dict[str, Any]) -> None:
    if process["uid"]:
        k.capset(_TO_FILTER | process["permitted"], _TO_FILTER | process["permitted"], 0)
    k.load_seccomp(process["seccomp"], process["seccomp_flags"])


def _set_capabilities(process: dict[str, Any]) -> None:
    k.capset(process["effective"], process["permitted"], process["inheritable"])
    ambient, capability = process["ambient"], 0
    while ambient >> capability:
        if ambient >> capability & 1:
            k.prctl(k.PR_CAP_AMBIENT, k.PR_CAP_AMBIENT_RAISE, capability)
        capability += 1


def open_label(process: dict[str, Any]) -> int:
    """Where the AppArmor profile of the next exec is written, opened while /proc is still the host's; -1 for none."""
    if not process["apparmor"]:
        return -1
    try:
        return os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # before Linux 5.8
        return os.open("/proc/self/attr/exec", os.O_WRONLY | os.O_CLOEXEC)


def confine(process: dict[str, Any], label: int) -> None:
    if label < 0:
        return
    try:
        os.write(label, b"exec " + process["apparmor"].encode())
    except OSError as error:
        words = "apparmor failed to apply profile: write /proc/self/attr/apparmor/exec"
        text = f"unable to apply apparmor profile: {words}: {(error.strerror or '').lower()}"
        raise ExecError(text, 128, error.errno or 0) from error


def change_directory(process: dict[str, Any]) -> None:
    """The working directory, made when missing: an image's WorkingDir need not exist."""
    cwd = process["cwd"]
    try:
        os.chdir(cwd)
    except FileNotFoundError:
        if not process["make_cwd"]:
            raise ExecError(
                f'chdir to cwd ("{cwd}") set in config.json failed: no such file or directory', 127, errno.ENOENT
            ) from None
        os.makedirs(cwd, 0o755, exist_ok=True)
        os.chown(cwd, process["uid"], process["gid"])
        os.chdir(cwd)
    except OSError as error:
        code = 126 if error.errno in (errno.EACCES, errno.ENOTDIR) else 128
        text = (error.strerror or "").lower()
        raise ExecError(f'chdir to cwd ("{cwd}") set in config.json failed: {text}', code, error.errno or 0) from error
    try:
        os.getcwd()
    except FileNotFoundError:  # the kernel's "(unreachable)": a magic link led out of the root (CVE-2024-21626)
        words = "current working directory is outside of container mount namespace root"
        raise ExecError(f"{words} -- possible container breakout detected", 128, errno.ENOENT) from None


def find_program(name: str, environment: dict[str, str]) -> str:
    """As Go's exec.LookPath, with its words: clients match on them."""
    if "/" in name:
        _check_executable(name, name)
        return name
    for directory in environment.get("PATH", "").split(":"):
        candidate = (directory or ".") + "/" + name
        try:
            _check_executable(name, candidate)
        except ExecError:
            continue
        return candidate
    raise ExecError(f'exec: "{name}": executable file not found in $PATH', 127, errno.ENOENT)


def _check_executable(name: str, path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        text = (error.strerror or "").lower()
        code = 127 if error.errno == errno.ENOENT else 126
        raise ExecError(f'exec: "{name}": stat {path}: {text}', code, error.errno or 0) from error
    if stat.S_ISDIR(mode):
        raise ExecError(f'exec: "{name}": is a directory: permission denied', 126, errno.EACCES)
    if not mode & 0o111 or not os.access(path, os.X_OK):
        raise ExecError(f'exec: "{name}": permission denied', 126, errno.EACCES)


def execute(path: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execve(path, arguments, environment)
    except OSError as error:
        text = (error.strerror or "").lower()
        code = {errno.ENOENT: 127, errno.ENOTDIR: 127}.get(error.errno or 0, 126)
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
            code = 128
        raise ExecError(f"exec {path}: {text}", code, error.errno or 0) from error


def ignored_signals() -> tuple[int, ...]:
    """Those that Python, the supervisor, or whoever started it ignores."""
    return tuple(number for number in range(1, signal.NSIG) if signal.getsignal(number) == signal.SIG_IGN)


def restore_signals(ignored: tuple[int, ...]) -> None:
    """Ignored signals survive exec, so each must be given back."""
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
