"""`/containers/{id}/exec` and `/exec/{id}`: further processes in running containers."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from engine.aggregates.container.commands import RequireRunning
from engine.aggregates.container.lifecycle import Status
from engine.aggregates.container.rules import check_environment
from engine.aggregates.decider import Reason, Rejected
from engine.aggregates.exec import CreateExec, ExecSpec, ExecState, ExecStatus, StartExec
from engine.aggregates.values import console
from engine.aggregates.values.config import Value
from engine.aggregates.values.ids import ExecID
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.detach import detach_keys
from engine.api.hijack import HIJACKED, hijack
from engine.api.notes import note
from engine.api.params import Query, cause_of
from engine.api.request import Request
from engine.api.responses import Response
from engine.api.routes.container_streams import dimension
from engine.api.streams import current_request, empty, frame, json_response
from engine.drivers.ports.runtime import RootFilesystem

STDOUT = 1
EXIT_WAIT_S = 1.0
"""How long who has seen the end of the output waits for the exit."""
CONSOLE_SIZE_SINCE = (1, 42)
SWEPT_AFTER_NS = 300_000_000_000
"""An exec that ended so long ago is removed by the next sweep (engine/reactors/execs.py): `CanRemove`."""
RESIZE_WAIT_S = 10.0
"""How long a resize waits for the process to be there. Source: moby daemon/resize.go."""


class ExecBody(Value, frozen=True, kw_only=True):
    """The body of `POST /containers/{id}/exec`."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] | None = None
    working_dir: str = ""
    cmd: tuple[str, ...] | None = None


class StartBody(Value, frozen=True, kw_only=True):
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


def register(app: EngineApp, context: ApiContext) -> None:
    ending: set[ExecID] = set()
    """Those whose output has ended, and whose end may not have reached the log."""

    @app.route("/containers/<name>/exec", methods=["POST"])
    async def create(name: str) -> Response:
        request = current_request()
        body = await decode_body(request, ExecBody)
        exec_id = await create_exec(context, name, body, request)
        return json_response({"Id": exec_id}, 201)

    @app.route("/exec/<exec_id>/start", methods=["POST"])
    async def start(exec_id: str) -> Response:
        request = current_request()
        body = await decode_body(request, StartBody, required=False)
        state = context.views.execs.find(exec_id)
        return await start_exec(context, state, body, request, ending)

    @app.route("/exec/<exec_id>/json", methods=["GET"])
    async def inspect(exec_id: str) -> Response:
        state = context.views.execs.find(exec_id)
        if state.exec_id in ending:
            await _ended(context, state)  # who has seen the output's end asks for the exit code next
            state = context.views.execs.find(exec_id)
        return json_response(inspection(context, state))

    @app.route("/exec/<exec_id>/resize", methods=["POST"])
    async def resize(exec_id: str) -> Response:
        query = Query.of(current_request())
        height, width = dimension(query, "h"), dimension(query, "w")
        state = context.views.execs.find(exec_id)
        if state.status is ExecStatus.CREATED:
            raise Rejected(Reason.INVALID, f"exec {exec_id} is not running")
        with trio.move_on_after(RESIZE_WAIT_S):
            state = await context.pump.until(f"exec:{state.exec_id}", lambda now: now.settled)
        if state.status is not ExecStatus.RUNNING:
            raise Rejected(Reason.CONFLICT, f"exec {exec_id} is not running")
        await context.ports.streams.resize(state.container_id, height, width, exec_id=state.exec_id)
        return empty(200)


async def create_exec(context: ApiContext, name: str, body: ExecBody, request: Request) -> ExecID:
    """Check and append. Raises Rejected, PortError: INVALID without a command or for an unknown user, CONFLICT unless
    the container runs."""
    state = context.views.containers.find(name)
    if not body.cmd:
        raise Rejected(Reason.INVALID, "No exec command specified")
    check_environment(body.env or ())
    running = RequireRunning(container_id=state.container_id, called=name)
    # Asked first, because sealing for a container that is gone would give it a key again; and with the exec itself.
    await context.application.execute(running, cause=cause_of(request))
    detach_keys(body.detach_keys, "escape")
    if body.user:
        nowhere = RootFilesystem(lowers=(), upper="", work="")
        await context.ports.identities.resolve(body.user, (), nowhere, pid=state.pid)
    exec_id = ExecID(context.entropy.hex_id())
    secret = msgspec.json.encode({"cmd": body.cmd, "env": body.env or ()})
    height, width = console_size(body, request, tty=body.tty)
    command = CreateExec(
        exec_id=exec_id,
        at=context.clock.now_ns(),
        container_id=state.container_id,
        spec=ExecSpec(
            user=body.user or state.config.user,
            working_dir=body.working_dir or state.config.working_dir,
            privileged=body.privileged,
            tty=body.tty,
            attach_stdin=body.attach_stdin,
            attach_stdout=body.attach_stdout,
            attach_stderr=body.attach_stderr,
            detach_keys=body.detach_keys,
            height=height,
            width=width,
        ),
        secret=await context.vault.seal(f"container:{state.container_id}", secret),
        entrypoint=body.cmd[0],
    )
    if command.spec.has_output:
        context.execs_ahead.approach(state.container_id, exec_id)
    await context.application.execute(running, command, cause=cause_of(request))
    return exec_id


def console_size(body: ExecBody | StartBody, request: Request, *, tty: bool) -> tuple[int, int]:
    """(height, width), (0, 0) when it is not said, for old clients, and without a terminal."""
    if body.console_size is None or not tty or request.api_version < CONSOLE_SIZE_SINCE:
        return 0, 0
    console.check_size(body.console_size)
    return body.console_size


async def start_exec(
    context: ApiContext, state: ExecState, body: StartBody, request: Request, ending: set[ExecID]
) -> Response:
    """Detached: answer once it runs. Attached: the client is registered before the process begins, so that no byte of
    its output is missed; a failed start is told in the stream (EXE-07).

    ending: holds it between the end of its output, which its client hears of at once, and its exit in the log.

    The start's own `Tty` says whether the client wants frames, whatever the process has; an unframed client has one
    output and so no standard error. Source: moby daemon/server/router/container/exec.go."""
    height, width = console_size(body, request, tty=body.tty)
    command = StartExec(
        exec_id=state.exec_id,
        at=context.clock.now_ns(),
        detach=body.detach,
        tty=body.tty,
        height=height,
        width=width,
    )
    cause = cause_of(request)
    if body.detach:
        await context.application.execute(command, cause=cause)
        after = await context.pump.until(f"exec:{state.exec_id}", lambda now: now.settled)
        if after.error:
            raise Rejected(Reason.INVALID if after.exit_code in (126, 127) else Reason.SYSTEM, after.error)
        return empty(200)
    _check_startable(context, state)
    spec = state.spec
    async with hijack(request, multiplexed=not body.tty) as client, trio.open_nursery() as nursery:

        async def begin() -> None:
            await context.application.execute(command, cause=cause)
            after = await context.pump.until(f"exec:{state.exec_id}", lambda now: now.settled)
            if after.error:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    text = after.error.encode() + b"\r\n"
                    await client.send_all(text if body.tty else frame(STDOUT, text))

        async def attach(task_status: trio.TaskStatus[None]) -> None:
            end = await context.ports.streams.attach(
                state.container_id,
                client.fd,
                exec_id=state.exec_id,
                stdin=spec.attach_stdin,
                stdout=spec.attach_stdout,
                stderr=spec.attach_stderr and not body.tty,
                multiplexed=not body.tty,
                detach_keys=detach_keys(spec.detach_keys) if spec.tty else b"",
                early_input=client.early_input,
                registered=task_status.started,
            )
            if end.reason == "detached":
                await context.pump.until(f"exec:{state.exec_id}", lambda now: now.settled)  # first begun, then left
                await note(context, state.container_id, cause, "exec_detach", execID=state.exec_id)
            if end.reason == "eof":
                ending.add(state.exec_id)
                try:
                    client.finish()
                    await _ended(context, state)
                finally:
                    ending.discard(state.exec_id)

        await nursery.start(attach, name="exec attach")
        async with context.execs_ahead.expecting(state.attached(height, width)):
            await begin()
    return HIJACKED


async def _ended(context: ApiContext, state: ExecState) -> None:
    """Wait for the exit, for a while: a process may close its output and run on."""
    with trio.move_on_after(EXIT_WAIT_S):
        await context.pump.until(f"exec:{state.exec_id}", lambda now: now.status is ExecStatus.EXITED)


def _check_startable(context: ApiContext, state: ExecState) -> None:
    """The refusals that must be an HTTP status, and so come before the hijack."""
    match state.status:
        case ExecStatus.RUNNING | ExecStatus.STARTING:
            raise Rejected(Reason.CONFLICT, f"exec command {state.exec_id} is already running")
        case ExecStatus.EXITED:
            raise Rejected(Reason.CONFLICT, f"exec command {state.exec_id} has already run")
        case _:
            pass
    container = context.views.containers.get(state.container_id)
    if container is None:
        raise Rejected(Reason.NOT_FOUND, f"No such container: {state.exec_id}")
    if not container.alive:
        raise Rejected(Reason.CONFLICT, f"container {state.container_id} is not running")
    if container.status is Status.PAUSED:
        raise Rejected(Reason.CONFLICT, f"Container {state.container_id} is paused, unpause the container before exec")


def inspection(context: ApiContext, state: ExecState) -> dict[str, Any]:
    """`GET /exec/{id}/json`. ExitCode is null until there is one."""
    if context.views.containers.get(state.container_id) is None:
        raise Rejected(Reason.NOT_FOUND, f"No such exec instance: {state.exec_id}")
    spec = state.spec
    command: list[str] = [state.entrypoint]
    if state.secret is not None:
        command = list(msgspec.json.decode(context.vault.open(state.secret))["cmd"])
    ended = state.status is ExecStatus.EXITED
    return {
        "ID": state.exec_id,
        # From the request on, as moby's: its output may reach a client before its start has reached the log.
        "Running": state.status in (ExecStatus.STARTING, ExecStatus.RUNNING),
        "ExitCode": state.exit_code if ended else None,
        "ProcessConfig": {
            "tty": spec.tty,
            "entrypoint": command[0],
            "arguments": command[1:],
            "privileged": spec.privileged,
            "user": spec.user,
        },
        "OpenStdin": spec.attach_stdin,
        "OpenStderr": spec.attach_stderr,
        "OpenStdout": spec.attach_stdout,
        "CanRemove": ended and state.finished_at + SWEPT_AFTER_NS <= context.clock.now_ns(),
        "ContainerID": state.container_id,
        "DetachKeys": spec.detach_keys,
        "Pid": state.pid,
    }
