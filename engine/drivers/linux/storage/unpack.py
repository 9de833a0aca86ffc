"""Making files from tar entries, below one directory and never outside it.

Owns the two ways entries are applied: as a layer (whiteouts become the overlay's, implied directories are remembered)
and as a copy into a container (`docker cp`: merge, replace, refuse). Refuses to know: where the archive comes from.

Every parent is opened with openat2(RESOLVE_IN_ROOT): symlinks, `..` and absolute links resolve inside the root as after
chroot, whatever earlier entries placed there. The last component is always handled without following it. Directory
fds are cached by the name the archive uses; replacing anything that is not a regular file empties the cache, because a
cached name may then mean another directory. Stdlib only: workers import it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from posixpath import normpath

from engine.drivers.linux.storage.kernel import RESOLVE_IN_ROOT, RESOLVE_NO_XDEV, openat2
from engine.drivers.linux.storage.tar_reader import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    LINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = b"trusted.overlay.opaque"
OVERLAY_XATTRS = b"trusted.overlay."

_DIR_CACHE_MAX = 256
_IMPLIED_MODE = 0o755
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_DIR = os.O_PATH | os.O_DIRECTORY


class UnpackError(ValueError):
    """An entry asks for what may not be done."""


class Rules:
    """How entries are applied.

    layer: whiteouts are translated and what crosses a mount is refused. merged: the layer's parent lies there already:
    whiteouts remove from it. keep_directories: a non-directory never
    replaces a directory nor the other way round (`noOverwriteDirNonDir`). owner: instead of the archive's
    (`copyUIDGID`).
    """

    __slots__ = ("keep_directories", "layer", "merged", "owner")

    def __init__(
        self,
        *,
        layer: bool,
        merged: bool = False,
        keep_directories: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self.layer = layer
        self.merged = merged
        self.keep_directories = keep_directories
        self.owner = owner


class Unpacker:
    """Applies one archive below `root_fd` / `destination`. Set the umask to 0 before."""

    def __init__(self, root_fd: int, rules: Rules, destination: bytes = b"") -> None:
        self._root_fd = root_fd
        self._rules = rules
        self._resolve = RESOLVE_IN_ROOT | (RESOLVE_NO_XDEV if rules.layer else 0)
        self._destination = destination.strip(b"/")
        self._dirs: dict[bytes, int] = {}
        self._directory_times: dict[bytes, int] = {}
        self._brought: set[bytes] = set()
        """Paths of this archive, where it is merged with what was there."""
        self._makers: dict[int, Callable[[Entry, int, bytes, TarReader], None]] = {
            REGULAR: self._regular,
            DIRECTORY: self._directory,
            SYMLINK: self._symlink,
            LINK: self._hard_link,
            CHARACTER: self._node,
            BLOCK_DEVICE: self._node,
            FIFO: self._node,
        }
        self.size = 0
        """Bytes of file content made so far."""
        self.entries = 0
        self.implied: list[bytes] = []
        """Directories made because something lies in them, without an entry of their own."""

    def apply(self, reader: TarReader) -> None:
        """Apply every entry, then the times of directories. Raises UnpackError, TarError, OSError."""
        try:
            for entry in reader:
                self.entries += 1
                self._apply_one(entry, reader)
            for path, mtime_ns in list(self._directory_times.items()):
                self._set_directory_time(path, mtime_ns)
        finally:
            self._forget_dirs()

    def _apply_one(self, entry: Entry, reader: TarReader) -> None:
        name = entry.name
        path = _clean(name)
        parent, _, base = path.rpartition(b"/")
        if not base:
            if entry.kind == DIRECTORY:
                self._root_entry(entry)
            return
        if self._rules.layer and base.startswith(WHITEOUT_PREFIX):
            if self._rules.merged:
                self._remove(parent, base)
            else:
                self._whiteout(self._parent(parent), parent, base)
            return
        directory = self._parent(parent)
        if self._rules.merged:
            self._bring(path)
        self._makers[entry.kind](entry, directory, base, reader)
        if entry.kind == DIRECTORY:
            self._directory_times[path] = entry.mtime_ns

    # --- kinds -------------------------------------------------------------------------------------------------------

    def _regular(self, entry: Entry, directory: int, base: bytes, reader: TarReader) -> None:
        try:
            fd = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        except FileExistsError:
            self._make_room(entry, directory, base)
            fd = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            elif (small := reader.rest_at_hand()) is not None:
                _write_all(fd, small)
            else:
                for chunk in reader.chunks():
                    _write_all(fd, chunk)
            uid, gid = self._rules.owner or (entry.uid, entry.gid)
            os.fchown(fd, uid, gid)
            if entry.mode & 0o7000:
                os.fchmod(fd, entry.mode)  # after the change of owner, which clears these bits.
            if entry.xattrs:
                self._set_xattrs(entry, directory, base)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self.size += entry.size

    def _directory(self, entry: Entry, directory: int, base: bytes, reader: TarReader) -> None:
        try:
            os.mkdir(base, entry.mode, dir_fd=directory)
        except FileExistsError:
            found = os.stat(base, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                self._make_room(entry, directory, base)
                os.mkdir(base, entry.mode, dir_fd=directory)
                if self._rules.layer and _is_whiteout(found):
                    _set_opaque(directory, base)  # the lower directory was whited out: this one begins empty.
        self._finish(entry, directory, base)

    def _symlink(self, entry: Entry, directory: int, base: bytes, reader: TarReader) -> None:
        try:
            os.symlink(entry.link, base, dir_fd=directory)
        except FileExistsError:
            self._make_room(entry, directory, base)
            os.symlink(entry.link, base, dir_fd=directory)
        self._finish(entry, directory, base)

    def _hard_link(self, entry: Entry, directory: int, base: bytes, reader: TarReader) -> None:
        target_parent, _, target = _clean(entry.link).rpartition(b"/")
        if not target:
            raise UnpackError(f"invalid hardlink {_text(entry.name)!r} -> {_text(entry.link)!r}")
        source = self._parent(target_parent, make=False)
        try:
            found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is not None:
            there = os.stat(target, dir_fd=source, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return  # a link to itself, or one that is there already.
            self._make_room(entry, directory, base)
            source = self._parent(target_parent, make=False)
            directory = self._parent(_clean(entry.name).rpartition(b"/")[0])
        os.link(target, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode):
            self._finish(entry, directory, base)  # the last name's attributes are the file's, as in moby

    def _node(self, entry: Entry, directory: int, base: bytes, reader: TarReader) -> None:
        kind = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}[entry.kind]
        device = 0 if entry.kind == FIFO else os.makedev(entry.major, entry.minor)
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=directory)
        except PermissionError:
            if self._rules.layer:
                raise
            return  # In a user namespace nobody makes devices: moby leaves them out too.
        except FileExistsError:
            self._make_room(entry, directory, base)
            os.mknod(base, kind | entry.mode, device, dir_fd=directory)
        self._finish(entry, directory, base)

    def _whiteout(self, directory: int, parent: bytes, base: bytes) -> None:
        if base == OPAQUE_MARKER:
            _set_opaque(directory, b".")
            return
        if base.startswith(WHITEOUT_META_PREFIX):
            return  # AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs): nothing an image means.
        hidden = _hidden(parent, base)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=directory)
        except FileExistsError:
            # A whiteout hides what is below, never what its own layer brings (OCI layer.md): a file of this layer hides
            # the lower one anyway, a directory must not merge with it.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=directory, follow_symlinks=False).st_mode):
                _set_opaque(directory, hidden)

    def _bring(self, path: bytes) -> None:
        """Remember a path and the directories above it."""
        while path and path not in self._brought:
            self._brought.add(path)
            path = path.rpartition(b"/")[0]

    def _remove(self, parent: bytes, base: bytes) -> None:
        """A whiteout where the parent layer lies: what it hides goes, unless this very layer has brought it."""
        if base != OPAQUE_MARKER and base.startswith(WHITEOUT_META_PREFIX):
            return
        directory = self._parent(parent)
        self._bring(parent)
        if base == OPAQUE_MARKER:
            self._remove_below(directory, parent)
        else:
            self._remove_one(directory, parent, _hidden(parent, base))
        self._forget_dirs()

    def _remove_one(self, directory: int, parent: bytes, name: bytes) -> None:
        path = parent + b"/" + name if parent else name
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        is_directory = stat.S_ISDIR(found.st_mode)
        if path not in self._brought:
            if is_directory:
                remove_tree(directory, name)
            else:
                os.unlink(name, dir_fd=directory)
        elif is_directory:
            below = os.open(name, _PATH_DIR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                self._remove_below(below, path)
            finally:
                os.close(below)

    def _remove_below(self, directory: int, path: bytes) -> None:
        for name in os.listdir(f"/proc/self/fd/{directory}"):
            self._remove_one(directory, path, os.fsencode(name))

    def _root_entry(self, entry: Entry) -> None:
        """`./`: attributes of the root itself. Copying into a container leaves its destination alone, as moby does."""
        if not self._rules.layer:
            return
        self._finish(entry, self._root_fd, b".")
        self._directory_times[b""] = entry.mtime_ns

    def _finish(self, entry: Entry, directory: int, base: bytes) -> None:
        """Owner, mode, xattrs and time of anything but a regular file."""
        uid, gid = self._rules.owner or (entry.uid, entry.gid)
        os.chown(base, uid, gid, dir_fd=directory, follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(base, entry.mode, dir_fd=directory)
        if entry.xattrs:
            self._set_xattrs(entry, directory, base)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _set_xattrs(self, entry: Entry, directory: int, base: bytes) -> None:
        os.fchdir(directory)  # there is no *at call for it, and inside a container /proc may be anything
        for name, value in (entry.xattrs or {}).items():
            # An image may not speak to the overlay (redirect, metacopy); moby's own archives never carry these.
            if name.startswith(OVERLAY_XATTRS):
                continue
            try:
                os.setxattr(base, name, value, follow_symlinks=False)
            except OSError as error:
                # Moby: a file system without xattrs, or one that refuses user.* on a link, is no reason to fail.
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise

    # --- places ------------------------------------------------------------------------------------------------------

    def _make_room(self, entry: Entry, directory: int, base: bytes) -> None:
        """Remove what is in the way. Not called when a directory meets a directory."""
        found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        is_directory = stat.S_ISDIR(found.st_mode)
        if self._rules.keep_directories and is_directory != (entry.kind == DIRECTORY):
            name = _text(_clean(entry.name))
            if is_directory:
                raise UnpackError(f'cannot overwrite directory "{name}" with non-directory "{_text(self._place())}"')
            raise UnpackError(f'cannot overwrite non-directory "{name}" with directory "{_text(self._place())}"')
        if is_directory:
            remove_tree(directory, base)
        else:
            os.unlink(base, dir_fd=directory)
        if not stat.S_ISREG(found.st_mode):
            self._forget_dirs(keep=directory)

    def _place(self) -> bytes:
        return b"/" + self._destination

    def _parent(self, parent: bytes, *, make: bool = True) -> int:
        """An O_PATH fd of a directory by the archive's name for it, made where it is missing."""
        fd = self._dirs.get(parent)
        if fd is not None:
            return fd
        if len(self._dirs) >= _DIR_CACHE_MAX:
            self._forget_dirs()
        path = self._destination + b"/" + parent if self._destination else parent
        try:
            fd = openat2(self._root_fd, path or b".", _PATH_DIR, resolve=self._resolve)
        except FileNotFoundError:
            if not make or not parent:
                raise
            fd = self._make_parent(parent, path)
        except NotADirectoryError:
            if not make:
                raise
            fd = self._make_parent(parent, path)
        if self._rules.merged:
            # What lies there from below keeps its time, as it would in an overlay.
            self._directory_times.setdefault(parent, os.fstat(fd).st_mtime_ns)
        self._dirs[parent] = fd
        return fd

    def _make_parent(self, parent: bytes, path: bytes) -> int:
        """Make one missing directory after its own parents. In a layer a whiteout in its place gives way."""
        above, _, base = parent.rpartition(b"/")
        directory = self._parent(above)
        try:
            os.mkdir(base, _IMPLIED_MODE, dir_fd=directory)
        except FileExistsError:
            found = os.stat(base, dir_fd=directory, follow_symlinks=False)
            below = self._rules.merged and parent not in self._brought
            if not below and (not self._rules.layer or not _is_whiteout(found)):
                raise UnpackError(f'"{_text(parent)}" is not a directory') from None
            os.unlink(base, dir_fd=directory)
            os.mkdir(base, _IMPLIED_MODE, dir_fd=directory)
            if not below:
                _set_opaque(directory, base)
        else:
            self.implied.append(parent)
        return openat2(self._root_fd, path, _PATH_DIR, resolve=self._resolve)

    def _forget_dirs(self, keep: int = -1) -> None:
        """Close cached fds; `keep` stays open for its user and in the cache until the next time."""
        kept = {}
        for path, fd in self._dirs.items():
            if fd == keep:
                kept[path] = fd
            else:
                os.close(fd)
        self._dirs = kept

    def _set_directory_time(self, path: bytes, mtime_ns: int) -> None:
        parent, _, base = path.rpartition(b"/")
        try:
            directory = self._parent(parent, make=False)
            os.utime(base or b".", ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return  # a later entry took its place.


def remove_tree(directory: int, base: bytes, removed: Callable[[int], None] | None = None) -> None:
    """Remove a tree below a directory fd, never following a link. removed: told the inode of everything in it."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(fd) as found:
            children = [(child.name, child.inode(), child.is_dir(follow_symlinks=False)) for child in found]
        for name, inode, is_directory in children:
            if is_directory:
                remove_tree(fd, os.fsencode(name), removed)
            else:
                os.unlink(name, dir_fd=fd)
            if removed is not None:
                removed(inode)
    finally:
        os.close(fd)
    os.rmdir(base, dir_fd=directory)


def _clean(name: bytes) -> bytes:
    """The name below the root, in Go's filepath.Clean way. Raises UnpackError where it leaves the root lexically."""
    if b".." not in name and b"//" not in name and b"./" not in name and name[:1] not in (b"/", b"."):
        return name.rstrip(b"/")
    path = normpath(name).lstrip(b"/")
    if path == b".." or path.startswith(b"../"):
        raise UnpackError(f"invalid path {_text(name)!r}: it leads out of the archive's root")
    return b"" if path == b"." else path


def _hidden(parent: bytes, base: bytes) -> bytes:
    """The name that a whiteout hides. Raises UnpackError for one that is none."""
    hidden = base[len(WHITEOUT_PREFIX) :]
    if not hidden or hidden in (b".", b".."):
        raise UnpackError(f"invalid whiteout {_text(parent + b'/' + base)!r}")
    return hidden


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _set_opaque(directory: int, base: bytes) -> None:
    os.fchdir(directory)
    os.setxattr(base, OPAQUE_XATTR, b"y", follow_symlinks=False)


def _write_all(fd: int, data: memoryview) -> None:
    if not data:
        return
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _write_sparse(fd: int, entry: Entry, reader: TarReader) -> None:
    chunks = reader.chunks()
    pending = memoryview(b"")
    for offset, size in entry.sparse or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while size:
            if not pending:
                pending = next(chunks)
            part = pending[:size]
            _write_all(fd, part)
            pending, size = pending[len(part) :], size - len(part)
    os.ftruncate(fd, entry.size)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
