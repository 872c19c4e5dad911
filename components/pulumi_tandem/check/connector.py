"""Codes 0060 to 0069: the KV connector and what is passed to it by hand."""

from collections.abc import Iterator

from pulumi_tandem.check.pair import pair
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.finding import nearest
from pulumi_tandem.resolve import Resolved, ResolvedPool

FIELDS_READ = (0, 32)
"""First vLLM whose fields and keys of a connector were read."""
FIELDS = frozenset({
    "kv_connector", "engine_id", "kv_buffer_device", "kv_role", "kv_port", "kv_connector_extra_config",
    "kv_connector_module_path", "enable_permute_local_kv", "kv_load_failure_policy",
})  # fmt: skip
REMOVED_FIELDS = frozenset({"kv_rank", "kv_parallel_size", "kv_ip", "kv_buffer_size"})
NIXL_KEYS = frozenset({
    "backends", "num_threads", "kv_lease_duration", "engine_ttl", "enforce_handshake_compat", "bidirectional_kv_xfer",
    "decoder_kv_blocks_ttl", "kv_recompute_threshold", "push_registration_timeout",
})  # fmt: skip
REMOVED_KEYS = frozenset({"enable_cross_layers_blocks"})
CONNECTORS = frozenset({
    "ExampleConnector", "ExampleHiddenStatesConnector", "LMCacheConnectorV1", "LMCacheMPConnector", "NixlConnector",
    "NixlPullConnector", "NixlPushConnector", "MultiConnector", "HiSparseConnector", "MoRIIOConnector",
    "OffloadingConnector", "DecodeBenchConnector", "MooncakeConnector", "MooncakeStoreConnector", "FlexKVConnectorV1",
    "SimpleCPUOffloadConnector", "HF3FSKVConnector",
})  # fmt: skip
ALIASES = {"NixlPullConnector": "NixlConnector"}
BY_ROLE = ("LMCacheConnector", "Mooncake", "MoRIIO", "P2pNccl", "FlexKV")
"""Beginnings of connectors that go by the role in the declaration; NIXL goes by each request."""
KV_BOTH_DEPRECATED = (0, 23)

_CONFIG = "vLLM 0.32/0.33 config/kv_transfer.py"
_FACTORY = "vLLM 0.32/0.33 distributed/kv_transfer/kv_connector/factory.py"


@rule(
    code="TND0060",
    title="both pools of a pair have a KV connector",
    story="""Without a connector an engine neither hands KV out nor takes it in. Requests are answered with 200 all the
    same: decode reads each prompt again, the prefill pool works for nothing, and one line in a log is the only trace.
    Dynamo's runtime stops such a prefill worker at start since 1.0.""",
    source="vLLM 0.32/0.33 config/kv_transfer.py: kv_connector is None by default; aiconfigurator#519",
)
def has_connector(resolved: Resolved) -> Iterator[Breach]:
    """Every vLLM pool of a pair names a connector."""
    for pool in pair(resolved) or ():
        if pool.vllm and pool.connector.name is None:
            message = "the engine has no KV connector; decode would read every prompt again, with 200 OK"
            fix = "drop connector: Tandem sets NIXL on both pools"
            yield Breach(path=f"{pool.name}.connector", message=message, fix=fix)


@rule(
    code="TND0061",
    title="both pools hand KV over by one protocol",
    story="""A connector talks to its like. NIXL has two that are not alike: with NixlConnector decode reads, with
    NixlPushConnector prefill writes, and the mode is in the handshake.""",
    source="vLLM 0.32/0.33 .../nixl/metadata.py compute_nixl_compatibility_hash: transfer_mode",
)
def same_connector(resolved: Resolved) -> Iterator[Breach]:
    """The connectors of the pair have one protocol in common."""
    two = pair(resolved)
    if not two or not all(pool.vllm and pool.connector.name for pool in two):
        return
    if not _protocols(two[0]) & _protocols(two[1]):
        message = f"decode uses {two[1].connector.name} and prefill {two[0].connector.name}; they refuse each other"
        fix = f"use {two[0].connector.name} on both pools"
        yield Breach(path="decode.connector.name", message=message, fix=fix)


@rule(
    code="TND0062",
    title="the engine has the connector",
    story="""vLLM finds connectors by name. Several were renamed or removed: SharedStorageConnector became
    ExampleConnector, P2pNcclConnector is gone. An unknown name stops the engine at start, unless
    kv_connector_module_path says where to load it from.""",
    source=_FACTORY,
)
def known_connector(resolved: Resolved) -> Iterator[Breach]:
    """Connector names are in the release's register, or have a module path."""
    for pool in resolved.pools:
        name = pool.connector.name
        if name is None or name in CONNECTORS or "kv_connector_module_path" in pool.connector.fields:
            continue
        if pool.vllm is None or pool.release_numbers < FIELDS_READ:
            continue
        near = nearest(name, CONNECTORS)
        yield Breach(
            path=f"{pool.name}.connector.name",
            message=f"vLLM {pool.engine.version} has no connector {name!r}; the engine would not start",
            fix=f"write {near!r}" if near else "use 'NixlConnector'",
        )


@rule(
    code="TND0063",
    severity="warning",
    title="prefill is declared to produce KV and decode to consume it",
    story="""NIXL goes by what each request says, so a pair of two producers may serve today; the declaration
    contradicts itself all the same, and load failures, deprecation and other connectors go by it.""",
    source=_CONFIG,
)
def roles_fit(resolved: Resolved) -> Iterator[Breach]:
    """No NIXL pool is declared to be the other role."""
    yield from _wrong_roles(resolved, by_role=False)


@rule(
    code="TND0064",
    title="a connector that goes by its role has the right one",
    story="""LMCache, Mooncake and MoRIIO decide at start, from kv_role, which side they are. Two producers wait for
    each other; nothing is transferred.""",
    source="vLLM 0.32/0.33 kv_connector/v1/{lmcache,mooncake,moriio}: is_kv_producer, is_kv_consumer",
)
def roles_are_right(resolved: Resolved) -> Iterator[Breach]:
    """Connectors that go by role have prefill as producer and decode as consumer."""
    yield from _wrong_roles(resolved, by_role=True)


@rule(
    code="TND0065",
    severity="warning",
    title="pools with NIXL say which role they have",
    story="""kv_both still works with NIXL and prints a deprecation warning on every worker since 0.23; the engine says
    that it will be removed.""",
    source="vllm#43874; vLLM 0.32/0.33 nixl/connector.py",
)
def no_kv_both(resolved: Resolved) -> Iterator[Breach]:
    """kv_both is not used with NIXL from 0.23 on."""
    for pool in pair(resolved) or ():
        nixl = pool.vllm and (pool.connector.name or "").startswith("Nixl")
        if nixl and pool.connector.role == "kv_both" and pool.release_numbers >= KV_BOTH_DEPRECATED:
            fix = "drop the role: prefill produces, decode consumes"
            message = f"kv_both is deprecated since vLLM 0.23 and {pool.engine.version} warns of it at every start"
            yield Breach(path=f"{pool.name}.connector.role", message=message, fix=fix)


@rule(
    code="TND0066",
    title="the keys of --kv-transfer-config are ones that the engine knows",
    story="""The engine refuses a key that it does not know, so that a misspelt one cannot be ignored in silence.
    Manifests of older releases have kv_rank, kv_parallel_size, kv_ip and kv_buffer_size, which are gone.""",
    source=f"{_CONFIG}, class KVTransferConfig: extra='forbid'; vllm#15960",
)
def known_fields(resolved: Resolved) -> Iterator[Breach]:
    """Further keys of the connector are fields of the release's class."""
    for pool in resolved.pools:
        for key in pool.connector.fields if pool.vllm else ():
            removed = key in REMOVED_FIELDS and pool.release_numbers >= FIELDS_READ
            if key in FIELDS or (key in REMOVED_FIELDS and not removed):
                continue
            near = None if removed else nearest(key.replace("kv_extra", "kv_connector_extra"), FIELDS)
            what = "no longer has" if removed else "has no"
            yield Breach(
                path=f"{pool.name}.connector.fields.{key}",
                message=f"vLLM {pool.engine.version} {what} key {key!r} in --kv-transfer-config; it would not start",
                fix=f"write {near!r}" if near else f"take {key!r} out",
            )


@rule(
    code="TND0067",
    severity="warning",
    title="the connector's extra keys are ones that it reads",
    story="""The extra configuration is a free dictionary: a key that the connector does not read has no effect, and
    nothing says so.""",
    source="vLLM 0.32/0.33 .../kv_connector/v1/nixl: get_from_extra_config",
)
def read_keys(resolved: Resolved) -> Iterator[Breach]:
    """Extra keys of NIXL are among those that it reads."""
    for pool in resolved.pools:
        plain = (pool.connector.name or "").startswith("Nixl")
        if not (pool.vllm and plain and pool.release_numbers >= FIELDS_READ):
            continue
        for key, value in pool.connector.extra.items():
            if key in NIXL_KEYS or not value:
                continue
            near = nearest(key, NIXL_KEYS)
            yield Breach(
                path=f"{pool.name}.connector.extra.{key}",
                message=f"NIXL in vLLM {pool.engine.version} does not read {key!r}; it would have no effect",
                fix=f"write {near!r}" if near else f"take {key!r} out",
            )


@rule(
    code="TND0068",
    title="keys that shape the KV's memory are the same on both pools",
    story="""The backend decides which transports exist between two agents; UCX on one side and LIBFABRIC on the other
    have none in common. Cross-layer blocks decide how blocks lie in memory: with them on one side only the sizes do
    not match.""",
    source="NIXL 1.5.1: agents need a backend in common; dynamo#10027 (enable_cross_layers_blocks)",
)
def same_keys(resolved: Resolved) -> Iterator[Breach]:
    """Backends and block packing are equal on the pair."""
    two = pair(resolved)
    if not two or not all(pool.vllm and pool.moves_kv_by("Nixl") for pool in two):
        return
    keys = ["backends", *(REMOVED_KEYS if two[1].release_numbers < FIELDS_READ else ())]
    for key in keys:
        prefill, decode = (pool.connector.extra.get(key) for pool in two)
        if prefill != decode and {str(prefill), str(decode)} not in ({"None", "['UCX']"}, {"None", "False"}):
            message = f"{key} is {decode!r} on decode and {prefill!r} on prefill; no KV would get across"
            fix = f"set {key} on the transfer's connector and on no pool's"
            yield Breach(path=f"decode.connector.extra.{key}", message=message, fix=fix)


@rule(
    code="TND0069",
    title="the NIXL library is new enough for the engine",
    story="""vLLM 0.33 asks for NIXL 1.5.0 when the connector starts, and stops with less. vLLM's wheel does not bring
    NIXL: the image decides.""",
    source="vLLM 0.33 .../nixl/base_worker.py check_nixl_version('1.5.0')",
)
def nixl_is_new_enough(resolved: Resolved) -> Iterator[Breach]:
    """NIXL as declared is at least what the release asks for."""
    for pool in pair(resolved) or ():
        given = pool.vllm.nixl_version if pool.vllm else None
        if given and pool.release_numbers >= (0, 33) and numbers(given) < (1, 5):
            message = f"vLLM {pool.engine.version} needs NIXL 1.5.0 and the image has {given}; it would not start"
            yield Breach(path=f"{pool.name}.engine.nixl_version", message=message, fix="use NIXL 1.5.1")


def numbers(version: str) -> tuple[int, ...]:
    """A version's numbers, as far as they are numbers."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _protocols(pool: ResolvedPool) -> set[str]:
    names = pool.connector.children or (pool.connector.name or "",)
    return {ALIASES.get(name, name) for name in names}


def _wrong_roles(resolved: Resolved, *, by_role: bool) -> Iterator[Breach]:
    right = {"prefill": "kv_producer", "decode": "kv_consumer"}
    for pool in pair(resolved) or ():
        given = pool.connector.role
        kind = (pool.connector.name or "").startswith(BY_ROLE)
        if pool.vllm is None or pool.connector.name is None or kind != by_role:
            continue
        if given not in (right[pool.name], "kv_both"):
            message = f"{pool.name} is declared {given!r}; a pair needs a producer and a consumer"
            yield Breach(path=f"{pool.name}.connector.role", message=message, fix=f"write {right[pool.name]!r}")
