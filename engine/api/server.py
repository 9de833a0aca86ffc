"""One client connection: a trio stream, whose plain requests are served here and the others by a machine.

Owns: reading and writing, half-closing politely, and letting go of the socket for a hijack. Refuses to know: routes,
versions, JSON; what is plain (lane.py, plain.py), and how the rest is read (machinery.py).

Connections have no idle timer: an engine's clients keep them for hours. They are closed with nothing unread, where that
can be had: a unix socket would give the client a reset instead of the answer.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from engine.api.app import EngineApp
from engine.api.errors import tell_of_break, unwrap
from engine.api.lane import Lane
from engine.api.machinery import Machinery
from engine.api.peer import Peer
from engine.api.plain import Plain
from engine.api.request import Body
from engine.api.sending import send_at_once
from engine.api.upload import UploadedBody

if TYPE_CHECKING:
    from engine.api.http_machine import HttpMachine

log = logging.getLogger(__name__)

READ_BYTES = 65536
GATHERED_BYTES = 1 << 18
GATHERING_S = 0.002
"""What of an upload is passed on at once. Clients write 16 or 32 KiB at a time, and the way of each part through the
machine costs as much as copying 200 KiB."""
LINGER_S = 0.5
HANG_UP_POLL_S = 0.05


def _has_hung_up(sock: Any) -> bool:
    poll = select.poll()
    if sock.fileno() < 0:
        return True  # closed under us: whoever closed it is done with the client
    poll.register(sock.fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))


class EngineServer:
    """Serves one connection: `await EngineServer(app, machinery, live, stream).run()`. `live` is the set of open
    connections, which the listener closes at shutdown."""

    def __init__(
        self, app: EngineApp, machinery: Machinery, live: set[EngineServer], stream: trio.SocketStream
    ) -> None:
        self._app, self._machinery, self._live, self._stream = app, machinery, live, stream
        self._machine: HttpMachine | None = None
        self._machine_idle = True
        self._send_lock = trio.Lock()
        self._read_scope = trio.CancelScope()
        self._gathered = bytearray()
        self._released: trio.Event | None = None
        self._lingering = False
        self._half_closed = False

    @property
    def idle(self) -> bool:
        """Between two requests: may be closed at any time."""
        return self._machine_idle and self._lane.idle

    async def run(self) -> None:
        self._live.add(self)
        try:
            await self._serve()
        except OSError:
            pass  # the peer has gone
        except Exception as error:
            if not isinstance(unwrap(error), OSError):
                log.exception("a connection broke")
        finally:
            self._live.discard(self)
            self._stream.socket.close()

    async def _serve(self) -> None:
        state = {"server": self, "peer": Peer.of(self._stream.socket)}
        async with trio.open_nursery() as nursery:
            pass_on = partial(self._pass_on, nursery, state)
            self._lane = Lane(nursery, partial(self._answer, nursery, state), self._rest, pass_on)
            await self._read_data()

    async def _answer(self, nursery: trio.Nursery, state: dict[str, Any], request: Plain) -> None:
        body = Body(request.body) if request.flow is None else UploadedBody(request.flow, self)
        try:
            await self._app.serve_plain(request.scope(state), body, nursery, self.send)
        except Exception as error:
            tell_of_break(error)
            await self.linger()
        if not body.over:
            await self.linger()

    # -- for a body that is read from the socket by others, see upload.py -----------------------------------------

    def socket(self) -> int:
        return self._stream.socket.fileno()

    def early(self) -> bytes:
        return self._lane.early()

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    def body_is_over(self, behind: bytes) -> None:
        self._lane.body_is_over(behind)

    # -----------------------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """After the last plain request: go, if that is asked for."""
        if self._half_closed or self._machinery.closing:
            await self.linger()

    async def _pass_on(self, nursery: trio.Nursery, state: dict[str, Any], data: bytes) -> None:
        if self._machine is None:
            self._machine = await self._machinery.machine(self, self._stream.socket, nursery, {**state})
        await self._machine.handle(data)

    async def _leave(self) -> None:
        """The client has gone, and what runs for it goes."""
        self._lane.leave()
        if self._machine is not None:
            await self._machine.client_left()

    async def _read_data(self) -> None:
        with self._read_scope:
            while True:
                try:
                    data = await self._stream.receive_some(READ_BYTES)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if data and self._machine is not None and self._machine.takes_a_body:
                    data = await self._gather(data)
                if not data:
                    self._half_closed = True
                    await self._end()
                    break
                if not self._lingering:
                    await self._lane.take(bytes(data))
            await self._leave()
        if self._released is not None:
            await self._released.wait()

    async def _end(self) -> None:
        """The client has said all."""
        if self.idle:
            await self.linger()  # and has been told all, too
        elif not self._lingering:
            await self._lane.end()
        await self._hang_up()

    async def _gather(self, first: bytes | bytearray) -> bytes:
        """More of a body that flows, as far as it comes without a pause."""
        self._gathered += first
        fd = self._stream.socket.fileno()
        with trio.move_on_after(GATHERING_S), suppress(ConnectionError, trio.ClosedResourceError):
            while len(self._gathered) < GATHERED_BYTES:
                with suppress(BlockingIOError):
                    more = os.read(fd, GATHERED_BYTES)  # half the work of receive_some, which is what this is about
                    if not more:
                        break  # the next read says so again
                    self._gathered += more
                    continue
                await trio.lowlevel.wait_readable(fd)
        data, self._gathered = bytes(self._gathered), bytearray()
        return data

    async def _hang_up(self) -> None:
        """After the client's end of input: wait while it still listens (`... | nc -U`, stdin of a hijack to be). Only a
        unix socket tells the two apart, and epoll cannot wait for it alone: such clients are few, so they are polled.
        Over TCP the end of input is taken for the end, as net/http does."""
        sock = self._stream.socket
        while sock.family == socket.AF_UNIX and not self._lingering and not _has_hung_up(sock):  # noqa: ASYNC110 - above
            await trio.sleep(HANG_UP_POLL_S)

    async def machine_rests(self, *, idle: bool, clean: bool) -> None:
        """See machinery.py, Line."""
        self._machine_idle = idle
        if clean:
            self._lane.reopen()
        if idle and self._machinery.closing:
            await self.linger()

    async def send(self, data: bytes) -> None:
        if self._released is not None:
            return  # what a route says behind a hijack is nobody's
        if not self._send_lock.locked():
            data = send_at_once(self._stream, data)
            if not data:
                return
        gone = False
        async with self._send_lock:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                gone = True
            except trio.Cancelled:
                self._stream.socket.close()  # half a chunk may be out: nothing may follow it
                raise
        if gone:
            await self._leave()

    async def linger(self) -> None:
        """Say that we are done, and let the reader throw away what the client still sends, for a while: closing over
        unread bytes resets a connection, and the client would not see the answer that made us close."""
        if self._lingering or self._released is not None:
            return  # a hijacked stream is only let go of: shutdown(2) would end it for the process that has it
        self._lingering = True
        self._read_scope.deadline = trio.current_time() + (0 if self._half_closed else LINGER_S)
        try:
            # Shielded: the end of a response cancels the request it belongs to, and we are still part of that.
            with trio.move_on_after(LINGER_S, shield=True):
                async with self._send_lock:
                    await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._read_scope.cancel()  # they are gone already

    async def release(self) -> tuple[trio.SocketStream, bytes]:
        """Stop reading and give the stream with what was read too far. `finish` must follow. Raises RuntimeError for
        what is no request of HTTP/1.1, or given away already."""
        if self._released is not None:
            raise RuntimeError("a connection can be hijacked only once")
        if self._lane.running:
            early_input = self._lane.give_away()
        else:
            assert self._machine is not None, "somebody else's request"
            early_input = self._machine.forget_request() + bytes(self._gathered)
        self._released = trio.Event()
        self._read_scope.cancel()
        if self._send_lock.locked():
            async with self._send_lock:
                pass  # nothing of ours is on its way any more
        return self._stream, early_input

    def finish(self) -> None:
        """The hijacked stream has found its owner or its end: our descriptor of it may be closed."""
        assert self._released is not None
        self._released.set()
