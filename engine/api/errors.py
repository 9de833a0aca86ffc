"""Exceptions as Docker's answers: the one place where a refusal becomes a status code.

`Rejected` and `PortError` carry the words the client reads; everything else is a bug, told with its message (as
dockerd does) and logged with its traceback.
"""

from __future__ import annotations

import logging

from engine.aggregates.decider import Reason, Rejected
from engine.api.responses import Response, empty, json_response
from engine.api.routing import NoRoute
from engine.errors import Fault, PortError

log = logging.getLogger(__name__)

STATUS_OF_REASON = {
    Reason.INVALID: 400,
    Reason.UNAUTHORIZED: 401,
    Reason.FORBIDDEN: 403,
    Reason.NOT_FOUND: 404,
    Reason.CONFLICT: 409,
    Reason.NOT_MODIFIED: 304,
    Reason.NOT_IMPLEMENTED: 501,
    Reason.UNAVAILABLE: 503,
    Reason.SYSTEM: 500,
}
STATUS_OF_FAULT = {
    Fault.SYSTEM: 500,
    Fault.INVALID: 400,
    Fault.NOT_FOUND: 404,
    Fault.CONFLICT: 409,
    Fault.FORBIDDEN: 403,
    Fault.UNAUTHORIZED: 401,
    Fault.UNAVAILABLE: 503,
    Fault.NOT_IMPLEMENTED: 501,
    Fault.DISK_FULL: 500,  # Docker's clients do not know 507
}

PAGE_NOT_FOUND = "page not found"


def status_and_message(error: BaseException) -> tuple[int, str]:
    """What a client is told about an error."""
    match unwrap(error):
        case Rejected() as rejected:
            return STATUS_OF_REASON[rejected.reason], rejected.message
        case PortError() as refused:
            return STATUS_OF_FAULT[refused.fault], refused.message
        case NoRoute():
            return 404, PAGE_NOT_FOUND
        case bug:
            return 500, str(bug) or type(bug).__name__


def render(error: Exception) -> Response:
    """The response for an exception that ended a route. Bugs are logged here, and only here."""
    status, message = status_and_message(error)
    if status == 304:
        return empty(304)
    if is_bug(error):
        log.error("the request failed unexpectedly: %s", message, exc_info=error)
    return json_response({"message": message}, status)


def is_bug(error: BaseException) -> bool:
    return not isinstance(unwrap(error), Rejected | PortError | NoRoute)


def unwrap(error: BaseException) -> BaseException:
    """The one error inside a group of one: nurseries wrap what their children raise."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def tell_of_break(error: Exception) -> None:
    """A response ended in its middle; its client hears nothing but that."""
    if is_bug(error):
        log.error("a response broke off", exc_info=error)
    else:
        log.warning("a response broke off: %s", status_and_message(error)[1])
