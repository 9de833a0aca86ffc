"""The application that serves the API: every route, and those that the past may be asked through."""

from __future__ import annotations

from engine.api.app import EngineApp, create_app
from engine.api.context import ApiContext
from engine.api.past import Past
from engine.api.routes import (
    attach,
    commit,
    container_files,
    container_logs,
    container_streams,
    container_update,
    container_views,
    containers,
    disk_usage,
    drift,
    execs,
    image_transfers,
    images,
    networks,
    registry,
    volumes,
)


def app_of(context: ApiContext) -> EngineApp:
    app = create_app(context)
    for routes in (
        containers,
        container_views,
        container_update,
        container_streams,
        attach,
        container_logs,
        container_files,
        execs,
        commit,
        images,
        image_transfers,
        networks,
        registry,
        volumes,
        disk_usage,
        drift,
    ):
        routes.register(app, context)
    app.past = Past(context, _reading_app).answer
    return app


def _reading_app(context: ApiContext) -> EngineApp:
    """The routes that the past may be asked through."""
    app = EngineApp(context.ready)
    for routes in (container_views, images, image_transfers, networks, volumes):
        routes.register(app, context)
    return app
