"""`/networks/...`: list, inspect, create (network_creation.py), connect, disconnect, delete, prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from engine import transactions
from engine.aggregates.container.commands import ConnectContainer, DisconnectContainer
from engine.aggregates.container.state import ContainerState
from engine.aggregates.decider import Cause, Reason, Rejected
from engine.aggregates.network import (
    NetworkState,
    NetworkStatus,
    ReleaseEndpoint,
    RemoveNetwork,
)
from engine.aggregates.values.config import EndpointConfig
from engine.aggregates.values.endpoints import NetworkAttachment
from engine.aggregates.values.ids import ContainerID
from engine.api import subnets
from engine.api.app import EngineApp
from engine.api.bodies import decode_body
from engine.api.context import ApiContext
from engine.api.filters import Filters
from engine.api.network_creation import SETTLE_DEADLINE_S, NetworkCreation
from engine.api.params import Query, cause_of
from engine.api.pruning import PRUNE_FILTERS, alone, prune_label_match, prune_until, tell_pruned
from engine.api.responses import Response, empty, json_response
from engine.api.rest import at_rest
from engine.api.shapes import networks as shapes
from engine.api.streams import current_request, request
from engine.errors import PortError

LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


def register(app: EngineApp, context: ApiContext) -> None:
    creation = NetworkCreation(context)
    routes = NetworkRoutes(context, creation)

    pruning = trio.Lock()

    @app.route("/networks", methods=["GET"])
    async def list_networks() -> Response:
        version = current_request().api_version
        found = routes.filtered(Query.of(request).filters())
        if version < (1, 28):
            return json_response([routes.inspected(state) for state in found])
        return json_response([shapes.summary(state, version) for state in found])

    @app.route("/networks/create", methods=["POST"])
    async def create() -> Response:
        body = await decode_body(request, shapes.CreateNetworkBody)
        if current_request().api_version < (1, 48):
            body = _without_ipv4_choice(body)
        network_id = await creation.create(body, cause_of(request))
        return json_response({"Id": network_id, "Warning": ""}, status=201)

    @app.route("/networks/prune", methods=["POST"])
    async def prune() -> Response:
        filters = Query.of(request).filters().validate(PRUNE_FILTERS)
        with alone(pruning):
            return json_response({"NetworksDeleted": await routes.prune(filters, cause_of(request)) or None})

    @app.route("/networks/<path:name>/connect", methods=["POST"])
    async def connect(name: str) -> Response:
        body = await decode_body(request, shapes.ConnectBody)
        await routes.connect(name, body, cause_of(request))
        return empty(200)

    @app.route("/networks/<path:name>/disconnect", methods=["POST"])
    async def disconnect(name: str) -> Response:
        body = await decode_body(request, shapes.DisconnectBody)
        await routes.disconnect(name, body, cause_of(request))
        return empty(200)

    @app.route("/networks/<path:name>", methods=["GET"])
    async def inspect(name: str) -> Response:
        query = Query.of(request)
        if query.text("verbose") and query.text("verbose") not in ("0", "1", "true", "false", "True", "False"):
            raise Rejected(Reason.INVALID, f"invalid value for verbose: {query.text('verbose')}")
        state = routes.find(name)
        if query.text("scope", "local") not in ("", "local"):
            raise Rejected(Reason.NOT_FOUND, f"network {name} not found")
        return json_response(routes.inspected(state))

    @app.route("/networks/<path:name>", methods=["DELETE"])
    async def delete(name: str) -> Response:
        await routes.remove(routes.find(name), cause_of(request))
        return empty(204)


def _without_ipv4_choice(body: shapes.CreateNetworkBody) -> shapes.CreateNetworkBody:
    """EnableIPv4 came with 1.48; older clients that send it meant something else or nothing."""
    fields = {name: getattr(body, name) for name in body.__struct_fields__}
    return shapes.CreateNetworkBody(**{**fields, "enable_ipv4": None})


class NetworkRoutes:
    """What the routes do."""

    def __init__(self, context: ApiContext, creation: NetworkCreation) -> None:
        self._context = context
        self._creation = creation

    # -- reading -------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> NetworkState:
        """NET-03. Raises Rejected: NOT_FOUND, INVALID for a beginning that several ids have."""
        try:
            return self._context.views.networks.find(name)
        except Rejected as error:
            if error.reason is not Reason.INVALID:
                raise
            count = sum(state.network_id.startswith(name) for state in self._context.views.networks)
            words = f"network {name} is ambiguous ({count} matches found based on ID prefix)"
            raise Rejected(Reason.INVALID, words) from error

    def inspected(self, state: NetworkState) -> dict[str, object]:
        containers = self._context.views.containers
        names = {str(owner): held.name for owner in state.endpoints if (held := containers.get(owner)) is not None}
        return shapes.inspect(state, names, current_request().api_version)

    def filtered(self, filters: Filters) -> list[NetworkState]:
        """NET-02. Names match as regular expressions anywhere, ids by their beginning."""
        filters.validate(LIST_FILTERS)
        for kind in filters.get("type"):
            if kind not in ("custom", "builtin"):
                raise Rejected(Reason.INVALID, f"invalid filter: 'type'='{kind}'")
        dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
        shown = (NetworkStatus.READY, NetworkStatus.REMOVING)
        return [
            state
            for state in self._context.views.networks
            if state.status in shown
            and filters.exact("driver", state.settings.driver)
            and filters.prefix("id", state.network_id)
            and filters.match("name", state.settings.name)
            and filters.exact("scope", "local")
            and filters.exact("type", "builtin" if state.predefined else "custom")
            and filters.labels("label", state.settings.labels)
            and (dangling is None or dangling == self._dangling(state))
        ]

    def _dangling(self, state: NetworkState) -> bool:
        """Made by a user, and no container is or wishes to be on it."""
        wished = self._wished() & {state.network_id, state.settings.name}
        return not state.predefined and not state.endpoints and not wished

    def _wished(self) -> set[str]:
        """Ids, and names where a container has not been on the network yet."""
        return {
            attachment.network_id or attachment.name
            for container in self._context.views.containers
            for attachment in (*container.networks, *container.connecting)
        }

    # -- connect, disconnect -------------------------------------------------------------------------------------------

    async def connect(self, name: str, body: shapes.ConnectBody, cause: Cause) -> None:
        """NET-05. Returns when the endpoint is there (running container) or noted (any other)."""
        container = self._container(body.container)
        network = self.find(name)
        config = body.endpoint_config
        subnets.check_connect(network, config)
        attachment = NetworkAttachment(
            name=network.settings.name, network_id=network.network_id, config=config or EndpointConfig()
        )
        intent = ConnectContainer(
            container_id=container.container_id, at=self._context.clock.now_ns(), attachment=attachment
        )
        commands = transactions.connect(
            await at_rest(self._context, container.container_id),
            intent,
            network.network_id,
            endpoint_ids=self._context.entropy.hex_id,
            seed=self._context.entropy.token,
        )
        await self._context.application.execute(*commands, cause=cause)
        state = await self._container_settled(
            container.container_id,
            lambda state: all(wish.network_id != network.network_id for wish in state.connecting),
        )
        error = dict(state.connect_errors).get(network.network_id)
        if error is not None and all(joined.network_id != network.network_id for joined in state.networks):
            raise PortError("connect", error)

    async def disconnect(self, name: str, body: shapes.DisconnectBody, cause: Cause) -> None:
        """NET-05. force also takes the endpoint of a container that is gone. From a network that is gone itself a
        container can be taken while it does not run: nothing else would let it start again."""
        try:
            container = self._container(body.container)
        except Rejected as error:
            if body.force and error.reason is Reason.NOT_FOUND:
                await self._force_release(self.find(name), body.container, cause)
                return
            raise
        await at_rest(self._context, container.container_id)
        network_id, known_as = self._left(name, container, force=body.force)
        await self._context.application.execute(
            DisconnectContainer(
                container_id=container.container_id,
                at=self._context.clock.now_ns(),
                network_id=network_id,
                name=known_as,
            ),
            cause=cause,
        )
        await self._container_settled(container.container_id, lambda state: network_id not in state.disconnecting)

    def _left(self, name: str, container: ContainerState, *, force: bool) -> tuple[str, str]:
        """The id ("" for a network that is gone) and the name of a network to leave."""
        if self._context.views.networks.lookup(name) is None and (force or not container.alive):
            return "", name
        network = self.find(name)
        return network.network_id, network.settings.name

    async def _force_release(self, network: NetworkState, owner: str, cause: Cause) -> None:
        held = [container_id for container_id in network.endpoints if owner and container_id.startswith(owner)]
        if len(held) != 1:
            raise Rejected(Reason.NOT_FOUND, f"unable to find endpoint for {owner} in network {network.settings.name}")
        await self._context.application.execute(
            ReleaseEndpoint(network_id=network.network_id, container_id=ContainerID(held[0])), cause=cause
        )

    def _container(self, reference: str) -> ContainerState:
        if not reference:
            raise Rejected(Reason.INVALID, "invalid container name or ID: value is empty")
        state = self._context.views.containers.find(reference)
        assert isinstance(state, ContainerState)
        return state

    async def _container_settled(self, container_id: ContainerID, predicate: Callable[[Any], object]) -> ContainerState:
        with trio.move_on_after(SETTLE_DEADLINE_S):
            state = await self._context.pump.until(f"container:{container_id}", predicate)
            assert isinstance(state, ContainerState)
            return state
        raise PortError("network", f"container {container_id}: the kernel has not followed")

    # -- remove --------------------------------------------------------------------------------------------------------

    async def remove(self, state: NetworkState, cause: Cause) -> None:
        """NET-04. Returns when the bridge is gone."""
        async with self._creation.unused(state):
            await self._context.application.execute(
                RemoveNetwork(network_id=state.network_id, at=self._context.clock.now_ns()), cause=cause
            )
        await self._creation.settled(
            state.network_id,
            lambda state: state.status is not NetworkStatus.REMOVING,
            f"error while removing network: network {state.settings.name}",
        )

    async def prune(self, filters: Filters, cause: Cause) -> list[str]:
        """NET-06: the names of those that went."""
        until = prune_until(filters, self._context.clock.now_ns())
        deleted = []
        for state in self._context.views.networks:
            fits = state.status is NetworkStatus.READY and self._dangling(state) and not state.settings.config_only
            if not fits or (until is not None and state.created_at > until):
                continue
            if not prune_label_match(filters, state.settings.labels):
                continue
            try:
                await self.remove(state, cause)
            except Rejected:
                continue  # somebody was quicker: it is used, or gone
            deleted.append(state.settings.name)
        await tell_pruned(self._context, "network", 0, cause)
        return deleted
