"""Codes 0245 to 0259: memory, permissions, disks, probes and grace periods of pods, and the model's token."""

import math
from collections.abc import Iterator

from pulumi_tandem.check.asked import efa_devices, gpus_of_pool, gpus_per_pod, mlx5_beside_efa
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.resolve import Resolved, ResolvedPool

GB = 1e9
GIB = 2**30
_OS_GB = 6.0
"""What a GPU machine image takes of its root volume. Source: AL2023 NVIDIA images, about 6 GB used."""
_EVICTION_SHARE = 0.1
"""Free share of the disk at which the kubelet evicts. Source: Kubernetes, node-pressure eviction, nodefs.available."""
_FASTEST_LOAD_GB_PER_S = 10.0
"""Faster than weights were ever seen to load over a network or from one disk; where no rate is declared."""
_BASELINE_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
"""Source: Kubernetes, Pod Security Standards."""
_RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})


@rule(
    code="TND0245",
    title="engines of several ranks have shared memory",
    story="""Ranks of one pod exchange data through /dev/shm, which the container runtime makes 64 MiB large. NCCL
    cannot create its segment, and the engine stops while it starts.""",
    source="vllm-project/production-stack#276; NCCL documentation, shared memory",
)
def shared_memory(resolved: Resolved) -> Iterator[Breach]:
    """shm_gib is not 0 where a pod has several ranks."""
    for pool in resolved.pools:
        if pool.pod.shm_gib == 0 and gpus_per_pod(pool) > 1:
            message = f"{gpus_per_pod(pool)} ranks share the runtime's 64 MiB of /dev/shm; the engine would not start"
            yield Breach(path=f"{pool.name}.pod.shm_gib", message=message, fix="drop shm_gib=0")


@rule(
    code="TND0246",
    severity="warning",
    title="a pod's memory limit holds its /dev/shm and its processes",
    story="""What is in /dev/shm is memory, and counts against the pod's limit. A pod that fills it is killed before
    the volume is full.""",
    source="llm-d guides/pd-disaggregation (20 GiB in a limit of 16); Kubernetes, emptyDir medium Memory",
)
def limit_holds_shm(resolved: Resolved) -> Iterator[Breach]:
    """shm_gib is below memory_gib."""
    for pool in resolved.pools:
        shm, limit = pool.pod.shm_gib, pool.pod.memory_gib
        if shm and limit and shm >= limit:
            message = (
                f"shared memory (/dev/shm) may take {shm:g} GiB, and the pod {limit:g}; it would "
                "be killed before that is full"
            )
            yield Breach(path=f"{pool.name}.pod.memory_gib", message=message, fix=f"use more than {shm:g}")


@rule(
    code="TND0247",
    title="a pod may do in its namespace what it asks for",
    story="""Pod Security refuses pods when they are created: the Deployment is there, its pods never come.
    `restricted` takes no added capability but NET_BIND_SERVICE, no root, no path of the machine; `baseline` takes
    root, but neither IPC_LOCK nor paths of the machine.""",
    source="Kubernetes, Pod Security Standards",
)
def pods_are_allowed(resolved: Resolved) -> Iterator[Breach]:
    """privileged, capabilities, host paths, host network and root fit the enforced level."""
    level = resolved.cluster.pod_security if resolved.cluster else None
    if level in {None, "privileged"}:
        return
    allowed = _RESTRICTED_CAPABILITIES if level == "restricted" else _BASELINE_CAPABILITIES
    for pool in resolved.pools:
        pod = pool.pod
        beyond = sorted(set(pod.capabilities or ()) - allowed)
        faults = {
            "privileged": "it is privileged" if pod.privileged else "",
            "capabilities": f"it adds {', '.join(beyond)}" if beyond else "",
            "host_paths": f"it mounts {', '.join(pod.host_paths)} of the machine" if pod.host_paths else "",
            "host_network": "it is on the machine's network" if pod.host_network else "",
            "run_as_non_root": "it may run as root" if level == "restricted" and not pod.run_as_non_root else "",
        }
        for field, fault in faults.items():
            if fault:
                message = f"the namespace enforces {level!r}, and the pod would be refused: {fault}"
                fix = f"drop {field}, or use a namespace that allows it"
                yield Breach(path=f"{pool.name}.pod.{field}", message=message, fix=fix)


@rule(
    code="TND0248",
    severity="warning",
    title="pods are not privileged, and see no devices that they were not given",
    story="""A privileged pod has every device of its machine, other pods' GPUs too, and is root there in all but
    name; EFA and RDMA need the capability IPC_LOCK only. A mounted /dev/infiniband shows an EFA machine's mlx5
    devices, where it has any (B200): libraries choose them, find no link, and go over TCP.""",
    source="aws-samples/aws-do-eks#63; EKS User Guide, EFA (IPC_LOCK is enough)",
)
def no_more_than_needed(resolved: Resolved) -> Iterator[Breach]:
    """No pod is privileged or mounts /dev/infiniband beside EFA."""
    for pool in resolved.pools:
        if pool.pod.privileged:
            message = "a privileged pod sees every GPU and device of its machine; EFA and RDMA need IPC_LOCK only"
            yield Breach(path=f"{pool.name}.pod.privileged", message=message, fix="use capabilities=('IPC_LOCK',)")
        mounted = [path for path in pool.pod.host_paths if path.startswith("/dev/infiniband")]
        efa = resolved.cluster is not None and resolved.cluster.fabric == "efa"
        if mlx5_beside_efa(pool):
            continue  # TND0291 tells of it
        if mounted and (efa or resolved.transfer.transport == "efa"):
            message = f"{mounted[0]} shows devices beside EFA's own, and libraries may choose them and go over TCP"
            fix = "drop it: the EFA plugin gives pods what they need"
            yield Breach(path=f"{pool.name}.pod.host_paths", message=message, fix=fix)


@rule(
    code="TND0249",
    severity="warning",
    title="pods with network devices may lock memory",
    story="""Memory that a network card reads by itself is locked. Whether a pod may lock more than a few MiB
    without the capability IPC_LOCK depends on how the container runtime was started; where it may not, the engine
    stops while it registers its KV.""",
    source="EKS User Guide, EFA; llm-d docs/infrastructure/rdma/README.md",
)
def may_lock(resolved: Resolved) -> Iterator[Breach]:
    """Written capabilities of a pod with EFA devices have IPC_LOCK; TND0290 tells of other devices."""
    for pool in resolved.pools:
        given = pool.pod.capabilities
        if given is not None and "IPC_LOCK" not in given and efa_devices(pool) and not pool.pod.privileged:
            message = "the pod registers memory with network devices, and without IPC_LOCK it may not be let to lock it"
            yield Breach(path=f"{pool.name}.pod.capabilities", message=message, fix="add 'IPC_LOCK'")


@rule(
    code="TND0250",
    title="the machine's disk holds the image and the weights",
    story="""Images and emptyDir volumes lie on the root volume, unless the machine's NVMe disks take their place.
    The kubelet evicts pods when a tenth is left, in the middle of the download, and the next machine does the same.""",
    source="aws-samples/deepseek-using-vllm-on-eks#11; Kubernetes, node-pressure eviction",
)
def disk_holds_weights(resolved: Resolved) -> Iterator[Breach]:
    """root_volume_gib holds system, image and weights in emptyDir."""
    for pool in resolved.pools:
        nodes, pod = pool.nodes, pool.pod
        if nodes is None or nodes.declared.nvme_raid0 or nodes.declared.root_volume_gib is None:
            continue
        weights_gb = resolved.weights_bytes / GB if pod.weights_volume == "emptyDir" else 0.0
        disk_gb = nodes.declared.root_volume_gib * GIB / GB * (1 - _EVICTION_SHARE)
        needed_gb = _OS_GB + (pod.image_gb or 0.0) + weights_gb
        if (pod.image_gb or weights_gb) and needed_gb > disk_gb:
            message = (
                f"system, image and weights take {needed_gb:.0f} GB, and the kubelet evicts pods beyond "
                f"{disk_gb:.0f} GB of the {nodes.declared.root_volume_gib:g} GiB root volume"
            )
            least = math.ceil(needed_gb * GB / GIB / (1 - _EVICTION_SHARE))
            fix = f"use root_volume_gib={least} or more, nvme_raid0=True, or a claim for the weights"
            yield Breach(path=f"{pool.name}.pod.weights_volume", message=message, fix=fix)


@rule(
    code="TND0251",
    title="weights that several machines read lie on a volume that several machines can have",
    story="""A ReadWriteOnce claim is attached to one machine. Pods on a second one wait for it for ever, with a
    Multi-Attach error that is seen in their events only.""",
    source="Kubernetes, persistent volumes, access modes; EBS CSI driver",
)
def claim_is_shared(resolved: Resolved) -> Iterator[Breach]:
    """No ReadWriteOnce claim where pods are on more than one machine."""
    claimed = [pool for pool in resolved.pools if pool.pod.weights_volume == "ReadWriteOnce"]
    if claimed and _needs_machines(claimed) > 1:
        message = "pods on several machines share a ReadWriteOnce claim, which one machine has; the others would wait"
        fix = "use 'ReadOnlyMany' or 'ReadWriteMany' (a file system, not a disk), or a folder of each machine"
        yield Breach(path=f"{claimed[0].name}.pod.weights_volume", message=message, fix=fix)


def _needs_machines(claimed: list[ResolvedPool]) -> int:
    """Machines that the pods of these pools may be on; nothing keeps them together where there are several."""
    named = {pool.pod.node or (pool.nodes and pool.nodes.name) for pool in claimed}
    nodes = claimed[0].nodes
    per_node = (nodes and nodes.gpus_per_node) or 0
    filled = -(-sum(gpus_of_pool(pool) for pool in claimed) // per_node) if per_node else 1
    spread = max(pool.nodes_per_worker for pool in claimed)
    several = sum(pool.workers for pool in claimed) > 1 and not any(pool.pod.node for pool in claimed)
    return max(len(named), filled, spread, (nodes and several and nodes.declared.nodes) or 1)


@rule(
    code="TND0252",
    title="a gated model has a token, and the Secret is there",
    story="""The hub hands gated weights out to accounts that their owner let in. Without a token the download ends
    in 401, after the machine has been paid for; with a Secret that does not exist the pod is not even started.""",
    source="kubernetes-sigs/gateway-api-inference-extension#139; Hugging Face documentation, gated models",
)
def token_is_there(resolved: Resolved) -> Iterator[Breach]:
    """A gated model that is not at a path has a token_secret, which is among the cluster's secrets."""
    secret = resolved.token_secret
    fetched = any(pool.model_path is None for pool in resolved.pools)
    known = resolved.cluster.secrets if resolved.cluster else None
    if resolved.gated and fetched and secret is None:
        message = f"{resolved.model_name} is gated, and no token is declared; its download would be refused"
        fix = "use token_secret=TokenSecret(name=...), or Model(path=...)"
        yield Breach(path="token_secret", message=message, fix=fix)
    if secret is not None and known is not None and secret.name not in known:
        message = f"no Secret {secret.name!r} is in the namespace; pods that name it do not start"
        yield Breach(path="token_secret.name", message=message, fix="create it, or name one that is there")


@rule(
    code="TND0253",
    title="a worker is given the time that its weights take",
    story="""Until an engine has read its weights it answers no probe. A startup probe (or, without one, the
    liveness probe) that gives up before restarts the container, which begins to read again: for ever. vLLM itself
    gives up on its ranks after VLLM_ENGINE_READY_TIMEOUT_S, 600 s by default.""",
    source="kserve config/llmisvcconfig/config-llm-decode-template.yaml; vLLM 0.33 envs.py; Kubernetes, probes",
)
def time_to_load(resolved: Resolved) -> Iterator[Breach]:
    """Weights over their rate are less than every limit of a worker's start."""
    for pool in resolved.pools:
        rate = pool.pod.load_gb_per_s or _FASTEST_LOAD_GB_PER_S
        load_s = resolved.weights_bytes / GB / rate
        path, budget_s = min(_start_budgets(resolved, pool), key=lambda each: each[1])
        if load_s > budget_s:
            message = (
                f"{resolved.weights_bytes / GB:.0f} GB of weights take {load_s:.0f} s at {rate:g} GB/s, and the worker "
                f"is given up after {budget_s:g} s; it would be restarted for ever"
            )
            yield Breach(path=path, message=message, fix=f"allow {math.ceil(load_s * 1.5)} s or more, or load faster")


def _start_budgets(resolved: Resolved, pool: ResolvedPool) -> Iterator[tuple[str, float]]:
    """Fields that end a worker's start, and after how many seconds."""
    pod = pool.pod
    if pod.startup:
        yield f"{pool.name}.pod.startup", pod.startup.budget_s
    elif pod.liveness and not pod.has_startup_probe:
        yield f"{pool.name}.pod.liveness", pod.liveness.budget_s
    else:
        yield "grace.start_timeout_s", resolved.grace.start_timeout_s
    ready = dict(pool.env).get("VLLM_ENGINE_READY_TIMEOUT_S", "")
    if ready.isdecimal():
        yield f"{pool.name}.env.VLLM_ENGINE_READY_TIMEOUT_S", float(ready)


@rule(
    code="TND0254",
    severity="warning",
    title="one bad answer does not restart a worker",
    story="""A worker that answers a health check late is busy, not dead: a long prefill step or a pause of the host
    is enough. A restart costs its requests, its KV, and minutes of loading. Three failures in a row are a sign.""",
    source="ai-dynamo/dynamo#2124",
)
def liveness_is_patient(resolved: Resolved) -> Iterator[Breach]:
    """failure_threshold of the liveness probe is more than 1."""
    for pool in resolved.pools:
        if pool.pod.liveness and pool.pod.liveness.failure_threshold == 1:
            message = "a single late answer would restart the worker, and lose its requests and minutes of loading"
            yield Breach(path=f"{pool.name}.pod.liveness", message=message, fix="use failure_threshold=3 or more")


@rule(
    code="TND0255",
    title="the grace period holds the preStop hook and the drain",
    story="""Kubernetes kills a pod when terminationGracePeriodSeconds are over, whatever it is doing; the preStop
    hook's time counts. A drain that is allowed longer is cut off: streams break, and KV that decode was going to
    read is gone. Kubernetes' own default is 30 s.""",
    source="llm-d/llm-d#1525; kserve/kserve#5496; Kubernetes, pod lifecycle, termination",
)
def grace_holds_drain(resolved: Resolved) -> Iterator[Breach]:
    """termination_grace_s is at least preStop, settling, draining and stopping together."""
    grace = resolved.grace
    for pool in resolved.pools:
        given = pool.pod.termination_grace_s
        needed_s = pool.pod.pre_stop_s + grace.settle_s + grace.drain_timeout_s + grace.stop_timeout_s
        if given is not None and given < math.floor(needed_s):
            message = (
                f"the pod is killed after {given:g} s, and preStop and drain may take {needed_s:g} s; "
                "streams would break at every roll-out"
            )
            fix = f"use {math.ceil(needed_s)} or more, or drop it: that is the default"
            yield Breach(path=f"{pool.name}.pod.termination_grace_s", message=message, fix=fix)


@rule(
    code="TND0256",
    title="the pods of one engine over several nodes start together",
    story="""With LeaderReady a LeaderWorkerSet creates the other pods once the leader is ready. A leader whose
    engine spans the group is ready once the others have joined: both wait. A group also has one pod for each node
    of the worker.""",
    source="kubernetes-sigs/lws#135; kubernetes-sigs/lws#653",
)
def group_starts(resolved: Resolved) -> Iterator[Breach]:
    """Workers over several nodes have LeaderCreated, and as many pods as nodes."""
    for pool in resolved.pools:
        pod = pool.pod
        if pool.nodes_per_worker > 1 and pod.group_start == "LeaderReady":
            message = "the leader is not ready before the other pods join, which come once it is ready; both would wait"
            yield Breach(path=f"{pool.name}.pod.group_start", message=message, fix="use 'LeaderCreated'")
        if pod.group_pods is not None and pod.group_pods != pool.nodes_per_worker:
            message = f"a group has {pod.group_pods} pods, and a worker is spread over {pool.nodes_per_worker} nodes"
            fix = f"use {pool.nodes_per_worker}, or drop group_pods: that is the default"
            yield Breach(
                path=f"{pool.name}.pod.group_pods", message=f"{message}; its ranks would not come together", fix=fix
            )
