"""What the rules of the cluster's side hold for every declaration, and not for single rows only."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem import Autoscaler, Cluster, NetworkInterface, NodePool, Pod, Probe, Ratio, Taint, Toleration
from pulumi_tandem.catalog import instance, names
from pulumi_tandem.declare.nodes import TaintEffect
from tests.builders import codes, eks_pair, findings, llama_pair
from tests.check.cases import Broken
from tests.check.cases_network import BROKEN as NETWORK
from tests.check.cases_pods import BROKEN as PODS

KEYS = st.sampled_from(["gpu", "team"])
VALUES = st.sampled_from(["", "a", "b"])
EFFECTS: st.SearchStrategy[TaintEffect] = st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"])
TAINTS = st.lists(st.builds(Taint, key=KEYS, value=VALUES, effect=EFFECTS), max_size=3).map(tuple)
TOLERATIONS = st.lists(
    st.builds(
        Toleration,
        key=st.none() | KEYS,
        operator=st.sampled_from(["Equal", "Exists"]),
        value=VALUES,
        effect=st.none() | EFFECTS,
    ),
    max_size=3,
).map(tuple)
EVERYTHING = Toleration(operator="Exists")


def tainted(taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...]) -> tandem.Service:
    return eks_pair({"tolerations": tolerations}, {"tolerations": (EVERYTHING,)}, nodes={"taints": taints})


@given(TAINTS, TOLERATIONS)
def test_a_toleration_more_keeps_no_pod_away(taints: tuple[Taint, ...], given_: tuple[Toleration, ...]):
    before, after = codes(tainted(taints, given_)), codes(tainted(taints, (*given_, EVERYTHING)))
    assert "TND0240" not in after
    assert set(after) <= set(before)


@given(TAINTS, TOLERATIONS)
def test_tolerations_are_read_as_the_scheduler_reads_them(taints: tuple[Taint, ...], given_: tuple[Toleration, ...]):
    """The words of core/v1 Toleration.ToleratesTaint, written out."""

    def tolerated(taint: Taint) -> bool:
        return any(
            (each.effect is None or each.effect == taint.effect)
            and (each.key is None or each.key == taint.key)
            and (each.operator == "Exists" or (each.key is not None and each.value == taint.value))
            for each in given_
        )

    stays_away = any(not tolerated(taint) for taint in taints if taint.effect != "PreferNoSchedule")
    assert ("TND0240" in codes(tainted(taints, given_))) == stays_away


BOUNDS = st.tuples(st.integers(1, 12), st.integers(0, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
TENTHS = st.integers(1, 40)


@given(BOUNDS, BOUNDS, TENTHS, TENTHS)
def test_a_ratio_is_reachable_when_some_two_counts_have_it(
    prefill: tuple[int, int], decode: tuple[int, int], one: int, other: int
):
    low, high = sorted((one, other))
    reachable = any(
        low * d <= 10 * p <= high * d
        for p in range(prefill[0], prefill[1] + 1)
        for d in range(decode[0], decode[1] + 1)
    )
    pools = [{"autoscalers": (Autoscaler(workers_min=a, workers_max=b),)} for a, b in (prefill, decode)]
    service = llama_pair(*pools, prefill_per_decode=Ratio(at_least=low / 10, at_most=high / 10))
    assert ("TND0261" in codes(service)) == (not reachable)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 16))
def test_workers_fit_when_their_gpus_do(prefill: int, decode: int, gpus: int):
    cluster = Cluster(node_pools=(NodePool(gpus_max=gpus),))
    service = llama_pair({"workers": prefill}, {"workers": decode}, cluster=cluster)
    assert ("TND0230" in codes(service)) == (prefill + decode > gpus)


@given(st.integers(1, 8), st.integers(20, 30), st.integers(1, 32))
def test_addresses_are_counted_as_the_subnet_counts_them(machines: int, prefix: int, interfaces: int):
    layout = tuple(NetworkInterface(card=card, type="efa") for card in range(interfaces))
    cidr = f"10.0.0.0/{prefix}"
    pool = NodePool(nodes=machines, subnet_cidrs=(cidr,), network_interfaces=layout)
    # hosts() leaves out 2 of the 5 addresses that AWS keeps
    free = len(list(ip_network(cidr).hosts())) - 3
    assert ("TND0226" in codes(llama_pair(cluster=Cluster(node_pools=(pool,))))) == (machines * interfaces > free)


@given(st.sampled_from(names("instances")))
def test_no_instance_type_takes_more_devices_than_it_has(name: str):
    """Tandem's own layout: a plain interface on card 0, EFA on every card that takes it."""
    row = instance(name)
    first = [NetworkInterface()]
    if "efa-only" in row.card0 and row.efa_interfaces:
        first.append(NetworkInterface(device=1, type="efa-only"))
    cards = range(1, row.network_cards) if row.efa_interfaces else ()
    layout = (*first, *(NetworkInterface(card=card, type="efa-only") for card in cards))
    pool = NodePool(instance_type=name, network_interfaces=layout)
    service = llama_pair({"gpu": row.gpu}, {"gpu": row.gpu}, cluster=Cluster(node_pools=(pool,)))
    assert "TND0223" not in codes(service)


@given(st.integers(1, 400), st.integers(1, 20))
def test_a_worker_that_has_the_time_has_it_with_more(period: int, times: int):
    def loading(failures: int) -> list[str]:
        probe = Probe(period_s=period, failure_threshold=failures)
        return codes(llama_pair({"pod": Pod(startup=probe, load_gb_per_s=0.1)}))

    assert ("TND0253" in loading(times)) == (period * times < 160.6)
    assert set(loading(times + 1)) <= set(loading(times))


@given(st.sampled_from([*NETWORK, *PODS]))
def test_without_a_cluster_little_is_said_and_nothing_new(row: Broken):
    """What is not declared is not judged."""
    alone = row.service.model_copy(update={"cluster": None})
    assert set(codes(alone)) <= {*codes(row.service), "TND0208"}


def test_findings_name_the_fields_as_they_are_written():
    for row in (*NETWORK, *PODS):
        for finding in findings(row.service):
            value: object = row.service
            for part in finding.path.split(".")[1:]:
                if isinstance(value, dict):
                    break
                value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
