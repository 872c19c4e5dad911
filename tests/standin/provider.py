"""The engine's resource provider protocol, each call carried out against the API server.

Source: pulumi-kubernetes v4, provider/pkg/provider/provider.go and provider/pkg/await/await.go.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import status_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from tests.standin import changes, kubeconfig
from tests.standin.api import UNREACHABLE, ApiFailure, Cluster, NoMatch
from tests.standin.objects import Refused, kind_of_token, token_of_urn
from tests.standin.properties import Object, received, revealed, sent
from tests.standin.resources import Engine, PartlyDone, Resources, Settings

VERSION = "4.34.2"
"""Of the official provider that it stands in for."""


@dataclass
class EngineLog(Engine):
    """Lines shown beside a resource, by the engine's own service."""

    stub: engine_pb2_grpc.EngineStub | None = None
    last: dict[str, str] = field(default_factory=dict[str, str])

    async def warn(self, urn: str, message: str) -> None:
        await self._log(urn, message, engine_pb2.WARNING, is_passing=False)

    async def show(self, urn: str, message: str) -> None:
        if self.last.get(urn) != message:
            self.last[urn] = message
            await self._log(urn, message, engine_pb2.INFO, is_passing=True)

    async def _log(self, urn: str, message: str, severity: Any, *, is_passing: bool) -> None:
        if self.stub:
            log: Any = self.stub.Log  # typed for the synchronous channel
            await log(engine_pb2.LogRequest(severity=severity, message=message, urn=urn, ephemeral=is_passing))


def answering(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A call whose refusals reach the engine as the official provider's would."""

    @functools.wraps(call)
    async def answer(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await call(self, request, context)
        except PartlyDone as failure:
            await context.abort(
                grpc.StatusCode.UNKNOWN, str(failure), (("grpc-status-details-bin", _details(failure)),)
            )
        except (Refused, ApiFailure, NoMatch) as failure:
            await context.abort(grpc.StatusCode.UNKNOWN, str(failure))
        except UNREACHABLE as failure:
            await context.abort(grpc.StatusCode.UNKNOWN, f"the API server does not answer: {failure or 'timed out'}")

    return answer


def _details(failure: PartlyDone) -> bytes:
    """The state of an object that exists but is not ready: the engine keeps it and tries again the next time."""
    failed = provider_pb2.ErrorResourceInitFailed(
        id=failure.identity,
        properties=sent(failure.state),
        reasons=[str(failure), *failure.reasons],
        inputs=sent(failure.inputs) if failure.inputs else None,
    )
    detail = any_pb2.Any()
    detail.Pack(failed)
    return status_pb2.Status(
        code=grpc.StatusCode.UNKNOWN.value[0], message=str(failure), details=[detail]
    ).SerializeToString()


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider process; the engine starts one for each configuration."""

    def __init__(self, engine_address: str | None) -> None:
        self.log = EngineLog()
        self.cancelled = asyncio.Event()
        self.resources: Resources | None = None
        if engine_address:
            self._listen_to(engine_address)

    def _listen_to(self, engine_address: str) -> None:
        self.log.stub = engine_pb2_grpc.EngineStub(grpc.aio.insecure_channel(engine_address))

    async def close(self) -> None:
        if self.resources and self.resources.cluster:
            await self.resources.cluster.close()

    @property
    def configured(self) -> Resources:
        assert self.resources, "the engine configures a provider before it asks for resources"
        return self.resources

    async def Attach(self, request: Any, context: Any) -> empty_pb2.Empty:
        self._listen_to(request.address)
        return empty_pb2.Empty()

    async def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=VERSION)

    async def GetMapping(self, request: Any, context: Any) -> provider_pb2.GetMappingResponse:
        return provider_pb2.GetMappingResponse()

    async def Cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        self.cancelled.set()
        return empty_pb2.Empty()

    @answering
    async def GetSchema(self, request: Any, context: Any) -> provider_pb2.GetSchemaResponse:
        raise Refused("the stand-in for the Kubernetes provider has no schema")

    @answering
    async def Invoke(self, request: Any, context: Any) -> provider_pb2.InvokeResponse:
        raise Refused(f"{request.tok}: the stand-in for the Kubernetes provider has no functions; use objects")

    @answering
    async def Construct(self, request: Any, context: Any) -> provider_pb2.ConstructResponse:
        raise Refused(f"{request.type}: the stand-in for the Kubernetes provider has no components; use objects")

    async def CheckConfig(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    @answering
    async def DiffConfig(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        """A provider is replaced, and all its objects with it, where it would speak to another API server.

        With an unchanged `clusterIdentifier` it never is; with a changed one always.
        """
        old, new = received(request.olds), received(request.news)
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        identifiers = [revealed(value.get("clusterIdentifier")) for value in (old, new)]
        replaces: list[str] = []
        if all(identifiers):
            replaces = ["clusterIdentifier"] if identifiers[0] != identifiers[1] else []
        elif _server(old) != _server(new):
            replaces = [key for key in changed if key in ("kubeconfig", "context", "cluster")]
        kind = provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=kind, diffs=changed, replaces=replaces)

    @answering
    async def Configure(self, request: Any, context: Any) -> provider_pb2.ConfigureResponse:
        settings = revealed(received(request.args))
        cluster, unreachable = await _connected(settings)
        self.resources = Resources(
            cluster=cluster,
            unreachable=unreachable,
            default_namespace=_default_namespace(settings),
            settings=Settings.of(settings),
            engine=self.log,
            cancelled=self.cancelled,
        )
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, supports_autonaming_configuration=True
        )

    @answering
    async def Check(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        kind_of_token(token_of_urn(request.urn))
        proposed = request.autonaming.proposed_name if request.HasField("autonaming") else ""
        inputs = await self.configured.checked(
            request.urn, received(request.news), received(request.olds), request.randomSeed, proposed
        )
        return provider_pb2.CheckResponse(inputs=sent(inputs))

    @answering
    async def Diff(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        plan = await self.configured.diff(
            request.urn, received(request.olds), received(request.news), list(request.ignoreChanges)
        )
        kinds = provider_pb2.DiffResponse
        return provider_pb2.DiffResponse(
            changes=kinds.DIFF_SOME if plan.differences or plan.replaces else kinds.DIFF_NONE,
            replaces=plan.replaces,
            deleteBeforeReplace=plan.is_deleted_first,
            detailedDiff={one.property_path: _property_diff(one) for one in plan.differences},
            hasDetailedDiff=True,
        )

    @answering
    async def Create(self, request: Any, context: Any) -> provider_pb2.CreateResponse:
        done = await self.configured.create(
            request.urn, received(request.properties), request.timeout, is_preview=request.preview
        )
        return provider_pb2.CreateResponse(id=done.identity, properties=sent(done.state))

    @answering
    async def Read(self, request: Any, context: Any) -> provider_pb2.ReadResponse:
        kind = kind_of_token(token_of_urn(request.urn))
        done = await self.configured.read(kind, request.id, received(request.properties), received(request.inputs))
        if done is None:
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(id=done.identity, properties=sent(done.state), inputs=sent(done.inputs))

    @answering
    async def Update(self, request: Any, context: Any) -> provider_pb2.UpdateResponse:
        done = await self.configured.update(
            request.urn,
            received(request.olds),
            received(request.news),
            list(request.ignoreChanges),
            request.timeout,
            is_preview=request.preview,
        )
        return provider_pb2.UpdateResponse(properties=sent(done.state))

    @answering
    async def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        await self.configured.delete(request.urn, received(request.properties), request.timeout)
        return empty_pb2.Empty()


async def _connected(settings: Object) -> tuple[Cluster | None, str]:
    """The API server, or why there is none: previews go on without one."""
    try:
        cluster = Cluster(kubeconfig.access(settings))
    except kubeconfig.Unusable as failure:
        return None, str(failure)
    try:
        await cluster.reach()
    except (ApiFailure, *UNREACHABLE) as failure:
        await cluster.close()
        return None, f"unable to load schema information from the API server: {failure}"
    return cluster, ""


def _server(settings: Object) -> str | None:
    try:
        return kubeconfig.access(revealed(settings)).server
    except kubeconfig.Unusable:
        return None


def _default_namespace(settings: Object) -> str:
    """Where an object goes that names no namespace, also while the API server does not answer."""
    try:
        return kubeconfig.access(settings).namespace
    except kubeconfig.Unusable:
        return settings.get("namespace") or "default"


def _property_diff(difference: changes.Difference) -> provider_pb2.PropertyDiff:
    kind = difference.change.value + ("_REPLACE" if difference.is_replacing else "")
    return provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(kind))
