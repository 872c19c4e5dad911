"""What becomes of a declared object: checked, compared, created, read, updated, deleted.

Source: pulumi-kubernetes v4, provider/pkg/provider/provider.go and provider/pkg/await/await.go, whose messages it
gives; creation follows pull request 4278 (client-side create, 4.29).
"""

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from tests.standin import objects, ownership, ready
from tests.standin.api import ApiFailure, Cluster, NoMatch
from tests.standin.changes import Difference, Mutable, differences, ignored
from tests.standin.objects import Kind, Refused
from tests.standin.properties import Object, concealed, has_unknown, revealed, secret
from tests.standin.waiting import Unready, Wait, look, timeout_s

RETRY_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
"""A kind or namespace that the same update brings may come a little later."""
CONFLICT_RETRIES = 5
CLUSTER_SCOPED = frozenset(
    [
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "DeviceClass",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ]
)
"""Kinds without a namespace, for when no API server tells."""
UNAWAITED_DELETIONS = frozenset(
    ["Namespace", "Pod", "ReplicationController", "DaemonSet", "Deployment", "StatefulSet", "Job"]
)
"""Kinds whose `pulumi.com/skipAwait` is of their deletion too (metadata/overrides.go)."""
READ_JUDGED = frozenset(["Deployment", "StatefulSet", "DaemonSet", "Job", "Pod", "Service", "Ingress"])
"""Kinds that a refresh judges as an update does."""
CONFLICT_HELP = (
    "Server-Side Apply field conflict detected. See https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/"
    "managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources for troubleshooting help."
)


class Engine(Protocol):
    """Where lines about a resource are shown."""

    async def warn(self, urn: str, message: str) -> None: ...
    async def show(self, urn: str, message: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """The provider's settings; each has an environment variable for when it is not set."""

    mutable: Mutable
    is_upserting: bool
    is_forcing: bool
    deletes_unreachable: bool

    @classmethod
    def of(cls, given: Object) -> "Settings":
        def is_on(key: str, variable: str, default: str = "false") -> bool:
            value = given.get(key, os.environ.get(f"PULUMI_K8S_{variable}", default))
            return str(value).lower() == "true"

        if not is_on("enableServerSideApply", "ENABLE_SERVER_SIDE_APPLY", "true") or given.get("renderYamlToDirectory"):
            raise Refused("the stand-in for the Kubernetes provider knows server-side apply only")
        return cls(
            mutable=Mutable(
                config_maps=is_on("enableConfigMapMutable", "ENABLE_CONFIGMAP_MUTABLE"),
                secrets=is_on("enableSecretMutable", "ENABLE_SECRET_MUTABLE"),
            ),
            is_upserting=is_on("upsertExistingObjects", "UPSERT_EXISTING_OBJECTS"),
            is_forcing=is_on("enablePatchForce", "ENABLE_PATCH_FORCE"),
            deletes_unreachable=is_on("deleteUnreachable", "DELETE_UNREACHABLE"),
        )


@dataclass(frozen=True)
class Done:
    """A resource as the engine keeps it; the identity is empty while it is only previewed."""

    identity: str
    state: Object
    inputs: Object = field(default_factory=Object)


@dataclass(frozen=True)
class Plan:
    differences: list[Difference]
    replaces: list[str]
    is_deleted_first: bool


class PartlyDone(Exception):
    """The object exists, but is not what was asked for."""

    def __init__(self, message: str, done: Done, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.identity = done.identity
        self.state = done.state
        self.inputs = done.inputs
        self.reasons = reasons


@dataclass(frozen=True)
class Resources:
    cluster: Cluster | None
    unreachable: str
    """Why there is no cluster."""
    default_namespace: str
    settings: Settings
    engine: Engine
    cancelled: asyncio.Event

    async def checked(self, urn: str, news: Object, olds: Object, seed: bytes, proposed: str) -> Object:
        """The inputs with the name and the namespace that the program left to the provider."""
        inputs, former = objects.as_inputs(revealed(news)), revealed(olds)
        if not isinstance(inputs.get("metadata", {}), dict):  # known in the update only
            return news
        ready.rule_for(inputs)  # what it shall wait for is refused here, not after it was made
        if not objects.name(inputs) and inputs.get("metadata", {}).get("generateName"):
            raise Refused("the `.metadata.generateName` field is not supported in Server-Side Apply mode")
        if not objects.name(inputs):
            if not former:
                given = proposed and objects.with_autoname(inputs, proposed)
                inputs = given or objects.autonamed(inputs, urn, seed)
            elif objects.is_annotated(former, objects.AUTONAMED):
                inputs = objects.with_autoname(inputs, objects.name(former))
        if not objects.namespace(inputs) and await self._is_namespaced(objects.kind_of(inputs)):
            inputs = {**inputs, "metadata": {**inputs.get("metadata", {}), "namespace": self.default_namespace}}
        return concealed(inputs, news)

    async def diff(self, urn: str, olds: Object, news: Object, ignore_changes: list[str]) -> Plan:
        """What an update would change, replaced where it cannot be changed in place."""
        old_inputs, live = _parted(olds)
        inputs = objects.as_inputs(objects.normalized(revealed(news)))
        old_inputs = objects.as_inputs(objects.normalized(old_inputs))
        former = objects.pruned(live, old_inputs)
        if await self._is_namespaced(objects.kind_of(inputs)):
            former, inputs = _in_namespace(former), _in_namespace(inputs)
        if objects.name(inputs):
            former = {**former, "metadata": {**former.get("metadata", {}), "name": objects.name(live)}}
        found = [
            difference
            for difference in differences(former, inputs, old_inputs, self.settings.mutable)
            if not ignored(difference, ignore_changes)
        ]
        replaces = [difference.property_path for difference in found if difference.is_replacing]
        if objects.is_annotated(inputs, objects.REPLACE_UNREADY) and await self._is_unready_job(urn, live):
            replaces.append(f'.metadata.annotations["{objects.REPLACE_UNREADY}"]')
        return Plan(found, replaces, bool(replaces) and _must_be_deleted_first(inputs, live))

    async def create(self, urn: str, properties: Object, custom_s: float, *, is_preview: bool) -> Done:
        inputs = revealed(properties)
        if is_preview and await self._cannot_preview(inputs):
            return Done("", properties)
        manager = objects.annotation(inputs, objects.PATCH_FIELD_MANAGER) or f"pulumi-kubernetes-{secrets.token_hex(4)}"
        try:
            live = await self._create(urn, inputs, manager, is_preview=is_preview)
        except NoMatch as failure:
            kind = objects.kind_of_token(objects.token_of_urn(urn))
            raise Refused(
                f'creation of resource "{urn}" with kind {kind.api_version}/{kind.name} failed because the Kubernetes '
                "API server reported that the apiVersion for this resource does not exist. "
                f"Verify that any required CRDs have been created: {failure}"
            ) from failure
        except ApiFailure as failure:
            if is_preview and _is_beyond_preview(failure):
                return Done("", properties)
            raise Refused(
                f'resource "{urn}" was not successfully created by the Kubernetes API server: {failure}'
            ) from failure
        if is_preview:
            return Done("", _state({**live, "status": {}}, inputs, properties, manager))
        try:
            live = await self._wait(urn, custom_s, inputs).until_ready(live)
        except Unready as failure:
            raise PartlyDone(
                f'resource "{urn}" was successfully created, but the Kubernetes API server reported that it failed to '
                f"fully initialize or become live: {failure}",
                Done(objects.identity(live), _state(failure.live, inputs, properties, manager)),
                failure.reasons,
            ) from failure
        return Done(objects.identity(live), _state(live, inputs, properties, manager))

    async def read(self, kind: Kind, identity: str, state: Object, inputs: Object) -> Done | None:
        """The object as it lives; None where it is gone. A refresh also judges whether it is ready."""
        if self.cluster is None and self.settings.deletes_unreachable:
            return None
        cluster = self._reached(
            "failed to read resource state due to unreachable cluster. If the cluster was deleted, you can remove this "
            "resource from Pulumi state by rerunning the operation with the PULUMI_K8S_DELETE_UNREACHABLE environment "
            'variable set to "true"'
        )
        within, _, called = identity.rpartition("/")
        known = objects.as_inputs(objects.normalized(revealed(inputs))) if inputs else {}
        wanted = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": called, "namespace": within}}
        try:
            live = await cluster.get(wanted)
        except NoMatch:
            return None
        except ApiFailure as failure:
            if failure.code == 404:
                return None
            raise
        manager = state.get("__fieldManager") or f"pulumi-kubernetes-{secrets.token_hex(4)}"
        live_inputs = objects.pruned(live, known) if known else _importable(live)
        done = Done(identity, _state(live, live_inputs, inputs, manager), _hidden(live_inputs, inputs))
        if known and not objects.is_annotated(live, objects.SKIP_AWAIT):
            await self._judge(cluster, live, done)
        return done

    async def update(
        self, urn: str, olds: Object, news: Object, ignore_changes: list[str], custom_s: float, *, is_preview: bool
    ) -> Done:
        inputs = objects.as_inputs(revealed(news))
        if is_preview and await self._cannot_preview(inputs):
            return Done("", news)
        cluster = self._reached(f"configured Kubernetes cluster is unreachable: {self.unreachable}")
        _, former = _parted(olds)
        manager = objects.annotation(inputs, objects.PATCH_FIELD_MANAGER) or olds.get("__fieldManager", "")
        try:
            live = await self._update(cluster, former, inputs, manager, ignore_changes, is_preview=is_preview)
            if not is_preview:
                live = await self._wait(urn, custom_s, inputs).until_ready(live)
        except NoMatch as failure:
            raise Refused(
                f'update of resource "{urn}" failed because the Kubernetes API server reported that the apiVersion for '
                f"this resource does not exist. Verify that any required CRDs have been created: {failure}"
            ) from failure
        except (ApiFailure, Unready) as failure:
            if is_preview and isinstance(failure, ApiFailure) and failure.reason == "Forbidden":
                return Done("", news)
            raise await self._half_updated(cluster, urn, former, (inputs, news), manager, failure) from failure
        return Done(objects.identity(live), _state(live, inputs, news, manager))

    async def delete(self, urn: str, state: Object, custom_s: float) -> None:
        """Delete the object and all that it owns, and return when it is gone."""
        inputs, live = _parted(state)
        if self.cluster is None and self.settings.deletes_unreachable:
            return
        cluster = self._reached(
            "configured Kubernetes cluster is unreachable. If the cluster was deleted, you can remove this resource "
            "from Pulumi state by rerunning the operation with the PULUMI_K8S_DELETE_UNREACHABLE environment variable "
            'set to "true"'
        )
        asked = objects.annotation(inputs, objects.DELETION_PROPAGATION).capitalize()
        try:
            await cluster.delete(live, asked if asked in ("Orphan", "Background") else "Foreground")
        except NoMatch:
            return
        except ApiFailure as failure:
            if failure.code == 404:
                return
            raise
        if objects.is_annotated(inputs, objects.SKIP_AWAIT) and live["kind"] in UNAWAITED_DELETIONS:
            return
        try:
            await self._wait(urn, custom_s, inputs).until_gone(live)
        except Unready as failure:
            for reason in failure.reasons:  # the engine shows none of a deletion
                await self.engine.warn(urn, reason)
            done = Done(objects.identity(live), _state(failure.live, inputs, state, state.get("__fieldManager", "")))
            raise PartlyDone(str(failure), done, failure.reasons) from failure

    async def _create(self, urn: str, inputs: Object, manager: str, *, is_preview: bool) -> Object:
        cluster = self._reached(f"configured Kubernetes cluster is unreachable: {self.unreachable}")
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                if self.settings.is_upserting:
                    forced = ownership.is_forced(inputs, None, always=self.settings.is_forcing, is_preview=is_preview)
                    return await cluster.apply(inputs, manager, is_forced=forced, is_preview=is_preview)
                return await cluster.create(inputs, manager, is_preview=is_preview)
            except (NoMatch, ApiFailure) as failure:
                is_lasting = isinstance(failure, ApiFailure) and failure.code != 404
                if delay_s is None or is_lasting or is_preview or self.cancelled.is_set():
                    raise
                await self.engine.show(urn, f"Retry; creation failed: {failure}")
            await asyncio.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    async def _update(
        self,
        cluster: Cluster,
        former: Object,
        inputs: Object,
        manager: str,
        ignore_changes: list[str],
        *,
        is_preview: bool,
    ) -> Object:
        live = await cluster.get(former)
        if objects.kind_of(inputs) == Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition"):
            version = live["metadata"]["resourceVersion"]
            versioned = {**inputs, "metadata": {**inputs["metadata"], "resourceVersion": version}}
            return await cluster.replace(versioned, manager, is_preview=is_preview)
        if not is_preview:
            live = await _take_over(cluster, live, manager)
        applied = ownership.without_ignored(inputs, live, manager, ignore_changes) if ignore_changes else inputs
        forced = ownership.is_forced(inputs, live, always=self.settings.is_forcing, is_preview=is_preview)
        return await cluster.apply(applied, manager, is_forced=forced, is_preview=is_preview)

    async def _half_updated(
        self,
        cluster: Cluster,
        urn: str,
        former: Object,
        inputs: tuple[Object, Object],
        manager: str,
        failure: ApiFailure | Unready,
    ) -> Exception:
        """What the engine keeps of an update that failed: the inputs it was given, and the object as it lives."""
        reason = str(failure)
        if isinstance(failure, ApiFailure) and failure.reason == "Conflict":
            reason = (
                f'{CONFLICT_HELP}\nThe resource managed by field manager "{manager}" had an apply conflict: {reason}'
            )
        try:
            live = await cluster.get(former)
        except ApiFailure as gone:
            return Refused(f'update of resource "{urn}" failed: {reason}\nunable to get cluster state: {gone}')
        identity = objects.identity(live)
        return PartlyDone(
            f'the Kubernetes API server reported that "{identity}" failed to fully initialize or become live: {reason}',
            Done(identity, _state(live, *inputs, manager)),
            failure.reasons if isinstance(failure, Unready) else (),
        )

    async def _judge(self, cluster: Cluster, live: Object, done: Done) -> None:
        rule = ready.RULES.get(objects.kind_of(live))
        if rule is None or live["kind"] not in READ_JUDGED:
            return
        verdict = rule.judge(await look(cluster, live, rule))
        if not verdict.is_ready:
            message = f"Resource '{objects.name(live)}' was created but failed to initialize"
            raise PartlyDone(message, done, verdict.reasons)

    async def _is_unready_job(self, urn: str, live: Object) -> bool:
        if self.cluster is None:
            await self.engine.warn(urn, "Cluster is unreachable, skipping replaceUnready check")
            return False
        if live.get("kind") != "Job":
            await self.engine.warn(urn, "replaceUnready annotation is not supported for this resource")
            return False
        rule = ready.RULES[objects.kind_of(live)]
        try:
            return not rule.judge(await look(self.cluster, live, rule)).is_ready
        except ApiFailure:
            return False

    async def _is_namespaced(self, kind: Kind) -> bool:
        try:
            return await self.cluster.is_namespaced(kind) if self.cluster else kind.name not in CLUSTER_SCOPED
        except NoMatch:
            return True

    async def _cannot_preview(self, inputs: Object) -> bool:
        if self.cluster is None or has_unknown(inputs):
            return True
        try:
            await self.cluster.is_namespaced(objects.kind_of(inputs))
        except NoMatch:
            return True
        return False

    def _reached(self, otherwise: str) -> Cluster:
        if self.cluster is None:
            raise Refused(otherwise)
        return self.cluster

    def _wait(self, urn: str, custom_s: float, inputs: Object) -> Wait:
        async def say(message: str) -> None:
            await self.engine.show(urn, message)

        assert self.cluster
        return Wait(self.cluster, self.cancelled, timeout_s(custom_s, inputs), say)


async def _take_over(cluster: Cluster, live: Object, manager: str) -> Object:
    """The object after the fields of the create, and of kubectl, became the update's own."""
    for _ in range(CONFLICT_RETRIES):
        entries = ownership.taken_over(live, manager)
        if entries is None:
            return live
        version = live["metadata"]["resourceVersion"]
        operations = [
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        ]
        try:
            return await cluster.patch(live, operations)
        except ApiFailure as failure:
            if failure.reason != "Conflict":
                raise
            live = await cluster.get(live)
    raise Refused(f"{objects.identity(live)} changes faster than its fields can be taken over; try again")


def _state(live: Object, inputs: Object, like: Object, manager: str) -> Object:
    """What the engine keeps: the object as it lives, and beside it what was asked for."""
    return {
        **_hidden(live, like),
        "__inputs": _hidden(inputs, like),
        "__initialApiVersion": inputs.get("apiVersion", live["apiVersion"]),
        "__fieldManager": manager,
    }


def _hidden(obj: Object, like: Object) -> Object:
    """The object with what the program hid, and all contents of a Secret, as secrets."""
    contents = {key: secret(obj[key]) for key in ("data", "stringData") if key in obj and obj.get("kind") == "Secret"}
    return {**concealed(obj, like), **contents}


def _parted(state: Object) -> tuple[Object, Object]:
    """The inputs and the live object in a resource's state."""
    plain = revealed(state)
    live = {key: value for key, value in plain.items() if not key.startswith("__")}
    return plain.get("__inputs", {}), live


def _importable(live: Object) -> Object:
    """The live object as its inputs could have been."""
    return {key: value for key, value in objects.as_inputs(live).items() if key != "status"}


def _in_namespace(obj: Object) -> Object:
    metadata = obj.get("metadata", {})
    return {**obj, "metadata": {**metadata, "namespace": metadata.get("namespace") or "default"}}


def _must_be_deleted_first(inputs: Object, live: Object) -> bool:
    """Whether the new object would stand where the old one does: the program named both the same."""
    is_named = bool(objects.name(inputs)) and not objects.is_annotated(inputs, objects.AUTONAMED)
    return is_named and objects.identity(inputs) == objects.identity(live)


def _is_beyond_preview(failure: ApiFailure) -> bool:
    """Whether a dry run failed for what the update itself may bring, or for want of a right to try."""
    return failure.reason in ("Forbidden", "AlreadyExists") or failure.is_of_missing_namespace
