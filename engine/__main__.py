"""The command `ishmaeld`: flags and file to a DaemonConfig, then the engine under trio.

Everything behind `run` is bootstrap.py's. This module prints what a person reads when the start fails.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial

from engine import doctor, options
from engine.api.versions import ENGINE_VERSION
from engine.config import ConfigError, DaemonConfig
from engine.pidfile import pidfile
from engine.reload import log_level


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the reason on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == doctor.COMMAND:
        return doctor.main(arguments[1:])
    if arguments and arguments[0] == "erase":
        from engine import erase  # here: a start of the engine does not need it

        return erase.main(arguments[1:])
    given = options.parser().parse_args(arguments)
    if given.version:
        print(f"Ishmael version {ENGINE_VERSION}")
        return 0
    try:
        config = options.load(given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if given.validate:
        print("configuration OK")
        return 0
    configure_logging(config)
    try:
        with pidfile(config.pidfile):
            return start(config, partial(options.load, given))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1


def configure_logging(config: DaemonConfig) -> None:
    """One line per record on standard error, where a service manager expects it."""
    logging.basicConfig(
        level=log_level(config),
        stream=sys.stderr,
        format='time="%(asctime)s" level=%(levelname)s logger=%(name)s msg="%(message)s"',
    )
    # They tell of every request its whole URL and of answers their headers: where an upload goes on, whose token it is.
    for library in ("httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.WARNING)


def start(config: DaemonConfig, reread: Callable[[], DaemonConfig]) -> int:
    """Run the engine until it is told to stop. reread: the configuration anew, from the same flags."""
    # What is imported and recovered stays, so looking for garbage among it is lost time; bootstrap turns it on again.
    gc.disable()
    import trio  # here: --version and --validate need neither trio nor the engine

    from engine import bootstrap

    try:
        trio.run(bootstrap.run, config, reread)
    except BaseExceptionGroup as group:
        raise _told(group) from group
    return 0


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The reason not to start, where that is all that went wrong in the nurseries; else everything."""
    reasons, others = group.split(ConfigError)
    if reasons is None or others is not None:
        return group
    reason: BaseException = reasons
    while isinstance(reason, BaseExceptionGroup):
        reason = reason.exceptions[0]
    return reason


if __name__ == "__main__":
    sys.exit(main())
