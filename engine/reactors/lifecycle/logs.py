"""What a start tells the log driver about its container (LOG-01, 06, 08).

The environment is in it, in the clear: it goes to the driver, in memory, and nowhere else.
"""

from __future__ import annotations

from engine.aggregates.container.log_options import reads_from_cache
from engine.aggregates.container.state import ContainerState
from engine.aggregates.values.log_files import log_file
from engine.aggregates.values.log_subject import LogSubject
from engine.aggregates.values.rfc3339 import fixed_time_of
from engine.drivers.ports.runtime import LogSpec


def log_spec(state: ContainerState, *, env: tuple[str, ...], folder: str, hostname: str) -> LogSpec:
    """folder: the container's own. hostname: this host's."""
    log = state.host.log_config
    cached = reads_from_cache(log)
    file = log_file(log.type, cached=cached, folder=folder, container_id=state.container_id)
    path = file.path if file is not None else ""
    words = (*(state.config.entrypoint or ()), *(state.config.cmd or ()))
    subject = LogSubject(
        config=log.config or {},
        container_id=state.container_id,
        name=state.name,
        path=words[0] if words else "",
        args=words[1:],
        image_id=state.image_id,
        image_name=state.config.image,
        created_at=fixed_time_of(state.created_at),
        env=env,
        labels=state.config.labels or {},
        hostname=hostname,
        log_path="" if cached else path,
    )
    return LogSpec(driver=log.type, path="" if cached else path, cache_path=path if cached else "", subject=subject)
