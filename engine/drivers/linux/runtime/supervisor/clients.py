"""An attached client inside the copier: frames out, keys and input in.

Owns: the client's socket, what waits to be sent to it, the search for detach keys. Refuses to know: logs, other
clients. The loop around it (copier.py) asks `backlog` and stops reading the process when it is too long.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time

BACKLOG_MAX = 1 << 20
HEAD_S = 1.0
"""How long output waits for a client that does not read the head of its answer."""
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError)


class Client:
    __slots__ = ("_keys", "_listening", "_matched", "_patient_until", "_waiting", "backlog", "fileno", "gone", "ident",
                 "multiplexed", "sock", "stderr", "stdin", "stdout", "to_process")  # fmt: skip

    def __init__(self, ident: int, fd: int, want: dict[str, bool], detach_keys: bytes, early_input: bytes) -> None:
        self.ident = ident
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.fileno = fd
        self.stdin, self.stdout, self.stderr = want["stdin"], want["stdout"], want["stderr"]
        self.multiplexed = want["multiplexed"]
        self.to_process = bytearray(early_input)
        """Input read from the client that the process has not taken yet."""
        self.backlog = 0
        self.gone = False
        self._waiting: list[bytes] = []
        self._listening = False
        self._patient_until = time.monotonic() + HEAD_S
        self._keys = detach_keys
        self._matched = 0

    @property
    def listening(self) -> bool:
        """Whether it has read the head of the answer, or had its time. docker-py looks for output in the socket only,
        and not in what it has read behind the head: what comes with that, it loses."""
        if not self._listening:
            try:
                unread = struct.unpack("i", fcntl.ioctl(self.fileno, termios.TIOCOUTQ, b"\0" * 4))[0]
            except OSError:  # no socket: there was no head
                unread = 0
            self._listening = not unread or time.monotonic() >= self._patient_until
        return self._listening

    def give(self, stream: int, data: bytes) -> None:
        """Send output (1 stdout, 2 stderr) or queue what does not fit."""
        if self.gone:
            return
        if self.multiplexed:
            header = struct.pack(">BxxxI", stream, len(data))
            if not self._waiting and self.listening:
                self._send([header, data])
                return
            self._waiting.append(header)
            self.backlog += len(header)
        elif not self._waiting and self.listening:
            self._send([data])
            return
        self._waiting.append(data)
        self.backlog += len(data)

    def _send(self, pieces: list[bytes]) -> None:
        try:
            sent = self.sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.gone = True
            return
        for piece in pieces:
            if sent >= len(piece):
                sent -= len(piece)
                continue
            self._waiting.append(piece[sent:] if sent else piece)
            self.backlog += len(piece) - sent
            sent = 0

    def flush(self) -> None:
        """The socket takes more: send what waits."""
        if not self.listening:
            return
        pieces, self._waiting, self.backlog = self._waiting, [], 0
        if pieces and not self.gone:
            # No more than the kernel's limit of pieces in one call.
            self._send(pieces[:512])
            for piece in pieces[512:]:
                self._waiting.append(piece)
                self.backlog += len(piece)

    def read(self) -> bytes | None:
        """Input from the client: None when it said end of file. Raises BlockingIOError."""
        try:
            return self.sock.recv(65536) or None
        except BlockingIOError:
            raise
        except OSError:
            self.gone = True
            return None

    def filter_keys(self, data: bytes) -> tuple[bytes, bool]:
        """Input without the detach keys, and whether they were all pressed. A beginning of the sequence is withheld
        until the next key tells whether it was meant (moby's escape proxy)."""
        keys = self._keys
        if not keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    self._matched = 0
                    return bytes(passed), True
                continue
            if self._matched:
                passed += keys[: self._matched]
                self._matched = 1 if byte == keys[0] else 0
                if self._matched and len(keys) > 1:
                    continue
                self._matched = 0
            passed.append(byte)
        return bytes(passed), False

    def close(self) -> None:
        self.sock.close()
