"""Codes 0040 to 0059: transport, time limits, environment, flags and ports."""

import re
from collections import Counter
from collections.abc import Iterator

from pulumi_tandem.check.asked import alone_in_its_network, kv_lease_s
from pulumi_tandem.check.owned import (
    BREAKING_ENV,
    OWN_ADDRESS,
    OWNED_ENV,
    OWNED_FLAGS,
    READ_FROM,
    REFUSED_FLAGS,
    REMOVED_ENV,
    RESERVED_ENV_PREFIX,
)
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool, split_flags

_FIXED_ALLOCATOR_FLAGS = {"--enable-cumem-allocator", "--enable-sleep-mode"}
_CPU_TRANSPORTS = ("tcp", "shm")


@rule(
    code="TND0040",
    title="the transport can exist between the two pools",
    story="""On a CPU, KV lies in the machine's memory: it travels over TCP or shared memory. GPU transports have
    nothing to register there, and the transfer library falls back or fails without a word to users.""",
    source="NIXL 1.5.1, UCX 1.22: memory types of each transport; pulumi_tandem.lower.vllm",
)
def transport_exists(resolved: Resolved) -> Iterator[Breach]:
    """Pools on a CPU move KV over TCP or shared memory."""
    transport = resolved.transfer.transport
    on_cpu = [pool.name for pool in resolved.pools if pool.on_cpu]
    if resolved.disaggregated and on_cpu and transport not in _CPU_TRANSPORTS:
        message = f"{' and '.join(on_cpu)} on a CPU cannot move KV over {transport!r}; it would not, or not over that"
        yield Breach(path="transfer.transport", message=message, fix="use 'tcp', or 'shm' on one machine")


@rule(
    code="TND0041",
    severity="warning",
    title="a drain outlasts a KV lease",
    story="""Prefill keeps a prompt's KV until decode has read it or the lease has run out. A prefill worker that is
    stopped before takes KV with it that decode was going to read; those requests are prefilled again elsewhere, and
    their users wait twice.""",
    source="vLLM 0.32/0.33 nixl/pull_scheduler.py, kv_lease_duration",
)
def drain_outlasts_lease(resolved: Resolved) -> Iterator[Breach]:
    """A preStop hook and drain_timeout_s together are more than prefill's lease."""
    if not resolved.disaggregated:
        return
    lease_s, _ = kv_lease_s(resolved)
    drain_s = resolved.grace.drain_timeout_s + resolved.pool("prefill").pod.pre_stop_s
    if drain_s <= lease_s:
        message = f"a worker drains for {drain_s:g} s, and KV may be waited for {lease_s:g} s; some would be lost"
        yield Breach(
            path="grace.drain_timeout_s", message=message, fix=f"use more than {lease_s:g} s, or a shorter lease"
        )


@rule(
    code="TND0050",
    title="the environment does not override what Tandem sets",
    story="""Addresses, ports and transports are set per worker, from where it runs. A fixed value in their place is
    right for one worker at best: with a side channel on localhost or 0.0.0.0 every remote read fails with 'engine ID
    mismatch', and with a fixed port the second worker of a machine does not start.""",
    source="vllm#27083; vLLM 0.32/0.33 nixl/base_scheduler.py; pulumi_tandem.lower.vllm",
)
def env_is_free(resolved: Resolved) -> Iterator[Breach]:
    """No pool's env holds a name that lowering sets."""
    for pool, name, value in _env(resolved):
        if name.startswith(RESERVED_ENV_PREFIX):
            message = f"{name!r} begins with {RESERVED_ENV_PREFIX!r}, which is how Tandem speaks to its own processes"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix="use another name")
        elif name in OWNED_ENV and value not in OWN_ADDRESS.get(name, ()):
            message = f"{name!r} is set by Tandem for every worker; a value of yours would be right for one at best"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=OWNED_ENV[name])


@rule(
    code="TND0051",
    title="the environment has no variable that the engine no longer reads",
    story="""A variable that was removed is ignored without a word: the setting that it stood for is at its
    default. Older guides and manifests are full of them.""",
    source="vLLM 0.32/0.33 envs.py, which does not have it",
)
def env_is_read(resolved: Resolved) -> Iterator[Breach]:
    """No pool's env holds a name that the engine dropped."""
    for pool, name, _ in _env(resolved):
        if name in REMOVED_ENV and pool.vllm and pool.release_numbers >= READ_FROM:
            message = f"vLLM {pool.engine.version} no longer reads {name!r}; it would have no effect"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=REMOVED_ENV[name])


@rule(
    code="TND0052",
    title="the environment does not break KV transfer",
    story="""PyTorch's expandable segments move memory that the transfer library has registered, so vLLM refuses to
    start with them and a KV connector together. Only its cumem allocator, which sleep mode turns on, keeps KV in
    place.""",
    source="vLLM 0.32/0.33 config/vllm.py, _verify_kv_transfer_compat",
)
def env_keeps_transfer(resolved: Resolved) -> Iterator[Breach]:
    """No env that a KV connector refuses, unless the allocator is the one that keeps memory in place."""
    for pool, name, value in _env(resolved):
        part = BREAKING_ENV.get(name)
        fixed = any(flag[0] in _FIXED_ALLOCATOR_FLAGS for flag in split_flags(pool.extra_args))
        if resolved.disaggregated and part and part in value and not fixed:
            message = f"{name}={value} cannot be had together with KV transfer; the engine would not start"
            yield Breach(path=f"{pool.name}.env.{name}", message=message, fix=f"take {part!r} out")


@rule(
    code="TND0053",
    title="further flags do not repeat or undo what Tandem sets",
    story="""The engine takes the last of two equal flags, so one passed by hand silently wins over the declared
    value, which everything else (the checks, the gateway, the proof) goes by.""",
    source="argparse: the last value wins; pulumi_tandem.lower.vllm",
)
def flags_are_free(resolved: Resolved) -> Iterator[Breach]:
    """No pool's extra_args hold a flag that lowering sets, or one that Tandem cannot serve."""
    for pool in resolved.pools:
        for flag, *_ in split_flags(pool.extra_args):
            name = canonical_flag(flag)
            if name in OWNED_FLAGS:
                message = f"{flag!r} is set from the declaration; this one would win over it unseen"
                yield Breach(path=f"{pool.name}.extra_args", message=message, fix=f"use {OWNED_FLAGS[name]}")
            elif name in REFUSED_FLAGS:
                message = f"{flag!r} cannot be served: {REFUSED_FLAGS[name]}"
                yield Breach(path=f"{pool.name}.extra_args", message=message, fix=f"take {flag} out")


@rule(
    code="TND0054",
    severity="warning",
    title="a fixed port is taken once on a machine",
    story="""A port that is written down is the same for every worker of the pool. Where two workers share a machine,
    as they always do on the local target, the second one does not start, or two listeners answer in turn. In a cluster
    a pod has a network of its own, unless it is on its machine's.""",
    source="bind(2): EADDRINUSE",
)
def fixed_ports(resolved: Resolved) -> Iterator[Breach]:
    """No port is fixed for more than one worker of the service, unless each has a pod with a network of its own."""
    if alone_in_its_network(resolved):
        return
    fixed = [(pool, where, port) for pool in resolved.pools for where, port in _fixed_ports(pool)]
    takers: Counter[int] = Counter()
    for pool, _, port in fixed:
        takers[port] += pool.workers
    for pool, where, port in fixed:
        if takers[port] > 1:
            message = f"port {port} is fixed for {takers[port]} workers; on one machine only the first would get it"
            yield Breach(path=f"{pool.name}.{where}", message=message, fix="give each pool of one worker its own port")


def canonical_flag(flag: str) -> str:
    """The flag as the table of owned ones spells it: no key of a JSON value, no negation, no short form."""
    name = flag.partition(".")[0]
    name = f"--{name[5:]}" if name.startswith("--no-") else name
    return {"-tp": "--tensor-parallel-size", "-dp": "--data-parallel-size", "-pp": "--pipeline-parallel-size"}.get(
        name, name
    )


def _env(resolved: Resolved) -> Iterator[tuple[ResolvedPool, str, str]]:
    for pool in resolved.pools:
        for name, value in pool.env:
            yield pool, name, value


def _fixed_ports(pool: ResolvedPool) -> Iterator[tuple[str, int]]:
    """Ports written in the environment and the flags of a pool, with the place where they stand."""
    for name, value in pool.env:
        if name.endswith("PORT") and name not in OWNED_ENV and re.fullmatch(r"\d{1,5}", value):
            yield f"env.{name}", int(value)
    for flag, *values in split_flags(pool.extra_args):
        owned = canonical_flag(flag) in OWNED_FLAGS
        if flag.endswith("port") and not owned and values and re.fullmatch(r"\d{1,5}", values[0]):
            yield "extra_args", int(values[0])
