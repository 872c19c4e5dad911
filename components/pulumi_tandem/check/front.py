"""Codes 0280 to 0289: what stands before the gateway, and ports that are written down."""

from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

_ROUTE_TIMEOUT_S = {"envoy": 15.0, "envoy-ai-gateway": 60.0, "gke-gateway": 30.0, "trtllm-serve": 180.0}
"""Longest request of a front door that is told nothing. Sources: Envoy route.RouteAction.timeout; envoy-ai-gateway
(LLMKube#734); GKE BackendConfig, backend service timeout; TensorRT-LLM 1.2 trtllm-serve disaggregated,
--request_timeout."""
_IDLE_TIMEOUT_S = {"aws-alb": 60.0, "nginx": 60.0}
"""Longest silence. Sources: ELB User Guide, idle_timeout.timeout_seconds; ingress-nginx, proxy-read-timeout."""
_PORT_PER_RANK = "--data-parallel-multi-port-external-lb"
_EXPORTER_PORT = "NIXL_TELEMETRY_PROMETHEUS_PORT"
_ENGINE_PORTS = ("http", "side_channel", "kv_events")
_RANKED_PORTS = ("side_channel", "kv_events")
"""The engine adds the data-parallel rank to these. Source: vLLM 0.33 nixl/base_scheduler.py, config/kv_events.py."""


@rule(
    code="TND0280",
    severity="warning",
    title="the front door waits as long as the service may take",
    story="""Many proxies count a route's timeout from the first byte of the request to the last of the answer,
    streams included, and have a default of a minute or less. Long answers end in the middle, with no error that the
    client could tell from the end.""",
    source="defilantech/LLMKube#734; vllm-project/aibrix#1176; Envoy route timeouts",
)
def route_outlasts_request(resolved: Resolved) -> Iterator[Breach]:
    """route_timeout_s is at least limits.request_timeout_s."""
    door = resolved.front_door
    if door is None:
        return
    given = door.route_timeout_s
    limit = _ROUTE_TIMEOUT_S.get(door.implementation, 0.0) if given is None else given
    longest = resolved.limits.request_timeout_s
    if 0 < limit < longest:
        whose = "by default " if given is None else ""
        message = (
            f"{door.implementation} ends requests {whose}after {limit:g} s, and the service "
            f"lets them take {longest:g} s"
        )
        fix = f"use route_timeout_s={longest:g} or 0, or a shorter limits.request_timeout_s"
        yield Breach(path="front_door.route_timeout_s", message=f"{message}; streams would be cut", fix=fix)


@rule(
    code="TND0281",
    severity="warning",
    title="the front door waits for the first token",
    story="""Nothing is sent to the client until the prompt has been read. A load balancer that closes silent
    connections takes that for a dead service, and answers 504 while the engine goes on computing.""",
    source="ELB User Guide, idle timeout; ingress-nginx, proxy-read-timeout",
)
def idle_outlasts_prefill(resolved: Resolved) -> Iterator[Breach]:
    """idle_timeout_s is at least limits.prefill_timeout_s."""
    door = resolved.front_door
    if door is None:
        return
    given = door.idle_timeout_s
    limit = _IDLE_TIMEOUT_S.get(door.implementation, 0.0) if given is None else given
    longest = resolved.limits.prefill_timeout_s
    if 0 < limit < longest:
        message = (
            f"{door.implementation} closes a connection after {limit:g} s of silence, and a "
            f"prompt may take {longest:g} s"
        )
        fix = f"use idle_timeout_s={longest:g} or more, or a shorter limits.prefill_timeout_s"
        yield Breach(path="front_door.idle_timeout_s", message=message, fix=fix)


@rule(
    code="TND0282",
    severity="warning",
    title="a router that looks for cached prefixes counts in the engines' blocks",
    story="""Prefixes are found by hashes of whole blocks. A router with another block size computes hashes that no
    engine has: every prompt looks new, and requests are spread as if there were no cache.""",
    source="ai-dynamo/dynamo#7690; llm-d/llm-d#2203",
)
def router_counts_blocks(resolved: Resolved) -> Iterator[Breach]:
    """front_door.block_tokens is that of every pool."""
    blocks = resolved.front_door.block_tokens if resolved.front_door else None
    for pool in resolved.pools if blocks else ():
        if pool.block_tokens != blocks and (pool.phase == "prefill" or not resolved.disaggregated):
            message = (
                f"the router counts in blocks of {blocks} tokens and {pool.name} in "
                f"{pool.block_tokens}; it finds no prefix"
            )
            yield Breach(path="front_door.block_tokens", message=message, fix=f"use {pool.block_tokens}")


@rule(
    code="TND0283",
    severity="warning",
    title="the front door can send to several ports of a pod",
    story="""Engines with a port for each data-parallel rank are several backends at one address. Istio up to 1.28
    is reported to configure its proxies wrongly for pools of several ports: requests reach the wrong rank.""",
    source="istio/istio#57638",
)
def several_ports(resolved: Resolved) -> Iterator[Breach]:
    """Istio before 1.29 has one HTTP port per pod."""
    door = resolved.front_door
    if door is None or door.implementation != "istio" or not catalog.version(door.version or ""):
        return
    for pool in resolved.pools:
        ports = [name for name in pool.pod.ports if name.startswith("http")]
        if len(ports) > 1 and catalog.version(door.version or "") < (1, 29):
            message = f"{pool.name} has {len(ports)} HTTP ports, and istio {door.version} mixes up several of one pod"
            yield Breach(path="front_door.version", message=message, fix="use 1.29 or later, or one port per pod")


@rule(
    code="TND0284",
    title="ports of one machine or pod are taken once",
    story="""Containers of a pod share its network, and pods on the machine's network share that. vLLM takes one
    port per data-parallel rank for its side channel and its KV events, counted up from the first: 5605 is the side
    channel of rank 5. Whoever binds second stops, or, with one of two servers gone, the pod looks healthy and half
    works.""",
    source="kaito-project/kaito#2027; vLLM 0.33 nixl/base_scheduler.py; bind(2): EADDRINUSE",
)
def ports_differ(resolved: Resolved) -> Iterator[Breach]:
    """No two ports of a place are the same, ranks counted."""
    for pools in _sharing_ports(resolved):
        takers: dict[int, tuple[str, str]] = {}
        for pool in pools:
            clash = _first_clash(pool, takers)
            if clash:
                name, port, (other_path, other_name) = clash
                where = f"{other_name!r}" if other_path == pool.name else f"{other_name!r} of {other_path}"
                message = f"{name!r} and {where} both take port {port}; the second would not start"
                yield Breach(path=f"{pool.name}.pod.ports", message=message, fix="give each a port of its own")


def _sharing_ports(resolved: Resolved) -> Iterator[list[ResolvedPool]]:
    """Pools whose ports are in one network, in groups."""
    first, *others = resolved.pools
    on_host = all(pool.pod.host_network for pool in resolved.pools)
    one_node = first.pod.node is not None and all(pool.pod.node == first.pod.node for pool in others)
    if others and (resolved.paired_pods or (on_host and one_node)):
        yield list(resolved.pools)
    else:
        yield from ([pool] for pool in resolved.pools)


def _first_clash(pool: ResolvedPool, takers: dict[int, tuple[str, str]]) -> tuple[str, int, tuple[str, str]] | None:
    """The first port of a pool that is taken already; adds the pool's ports to those taken."""
    clash = None
    for name, first in _ports(pool):
        ranks = -(-pool.data_parallel // pool.nodes_per_worker) if name in _RANKED_PORTS else 1
        for port in range(first, first + ranks):
            if port in takers and clash is None:
                clash = (name, port, takers[port])
            takers.setdefault(port, (pool.name, name))
    return clash


def _ports(pool: ResolvedPool) -> Iterator[tuple[str, int]]:
    """Ports that are written down, and those that the environment opens beside them.

    A name of the user's own may stand for a port of the environment; those of the engine do not.
    """
    env = dict(pool.env)
    opened = {_EXPORTER_PORT: _exporter_port(env)}
    if (system := env.get("DYN_SYSTEM_PORT", "")).isdecimal():
        opened["DYN_SYSTEM_PORT"] = int(system)
    yield from ((name, port) for name, port in opened.items() if port is not None)
    own = {port for name, port in pool.pod.ports.items() if name not in _ENGINE_PORTS} & set(opened.values())
    yield from ((name, port) for name, port in pool.pod.ports.items() if name in _ENGINE_PORTS or port not in own)


@rule(
    code="TND0286",
    title="as many HTTP ports are written down as the engine opens",
    story="""With a port for each data-parallel rank, the front door deals requests to the ranks. With vLLM's own
    balancing, hybrid too, one port serves all ranks of a machine. A port that nobody listens on answers its share
    of requests with connection refused; a rank whose port is left out does no work.""",
    source="vLLM 0.33 docs/serving/data_parallel_deployment.md; llm-d InferencePool targetPorts",
)
def http_ports_listen(resolved: Resolved) -> Iterator[Breach]:
    """Ports whose name begins with http are one, or one per rank of a machine where each rank has its own."""
    for pool in resolved.pools:
        ports = [port for name, port in pool.pod.ports.items() if name.startswith("http")]
        each = any(flag[0] == _PORT_PER_RANK for flag in split_flags(pool.extra_args))
        opened = -(-pool.data_parallel // pool.nodes_per_worker) if each else 1
        if ports and len(ports) != opened:
            message = f"{len(ports)} HTTP ports are written down, and the engine opens {opened}"
            fix = f"write {opened}; {_PORT_PER_RANK} gives each rank its own"
            yield Breach(path=f"{pool.name}.pod.ports", message=message, fix=fix)


@rule(
    code="TND0285",
    title="ranks of one pod do not open one telemetry port",
    story="""Every rank of an engine opens NIXL's Prometheus exporter at the port of NIXL_TELEMETRY_PROMETHEUS_PORT.
    The first gets it, and the others stop the engine while it starts.""",
    source="ai-dynamo/dynamo#14284; NIXL 1.5.1 telemetry",
)
def telemetry_port(resolved: Resolved) -> Iterator[Breach]:
    """NIXL's exporter is on in pods of one rank only."""
    for pool in resolved.pools:
        env = dict(pool.env)
        port = _exporter_port(env)
        if port is not None and pool.ranks > 1:
            message = f"{pool.ranks} ranks would open port {port} for NIXL's telemetry; all but the first would stop"
            fix = "turn the exporter off: Tandem's agent counts KV by the engine's own metrics"
            name = _EXPORTER_PORT if _EXPORTER_PORT in env else "NIXL_TELEMETRY_EXPORTER"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=fix)


def _exporter_port(env: dict[str, str]) -> int | None:
    """Where each rank opens NIXL's Prometheus exporter; None: it is off. Source: NIXL 1.5.1 telemetry."""
    on = env.get("NIXL_TELEMETRY_ENABLE", "").lower() in {"y", "yes", "1", "true", "on"}
    port = env.get(_EXPORTER_PORT, "9090")
    return int(port) if on and env.get("NIXL_TELEMETRY_EXPORTER") == "prometheus" and port.isdecimal() else None
