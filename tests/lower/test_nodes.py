"""Engines over several machines: what the first one runs, and what the others do."""

from typing import Any

from tandem_worker.contract import WorkerSpec
from tests.builders import codes, fleet, llama_pair
from tests.check.cases_tensorrt import servers


def decode_spec(**pool: Any) -> WorkerSpec:
    service = llama_pair(decode=pool)
    assert not [code for code in codes(service) if code == "TND0006"]
    return fleet(service).pool("decode").spec


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_ranks_are_dealt_out_over_machines_behind_one_http_server():
    spec = decode_spec(data_parallel=4, nodes_per_worker=2)
    assert (spec.nodes, spec.ranks_per_node) == (2, 2)
    for argv in (spec.argv, spec.follower_argv):
        assert argv[1:4] == ("-m", "vllm.entrypoints.cli.main", "serve")
        assert after(argv, "--data-parallel-size") == "4"
        assert after(argv, "--data-parallel-size-local") == "2"
        assert after(argv, "--data-parallel-address") == "$(TANDEM_LEADER_ADDRESS)"
        assert after(argv, "--data-parallel-rpc-port") == "$(TANDEM_PORT_GROUP)"
    assert "--headless" not in spec.argv
    assert "--data-parallel-start-rank" not in spec.argv
    assert "--headless" in spec.follower_argv
    assert after(spec.follower_argv, "--data-parallel-start-rank") == "$(TANDEM_FIRST_RANK)"


def test_one_engine_spans_machines_by_their_numbers():
    spec = decode_spec(tensor_parallel=8, pipeline_parallel=2, nodes_per_worker=2)
    for argv in (spec.argv, spec.follower_argv):
        assert after(argv, "--nnodes") == "2"
        assert after(argv, "--node-rank") == "$(TANDEM_NODE_RANK)"
        assert after(argv, "--master-addr") == "$(TANDEM_LEADER_ADDRESS)"
    assert "--headless" in spec.follower_argv


def test_ranks_on_one_machine_have_side_channels_of_their_own():
    spec = decode_spec(data_parallel=2)
    ports = {port.name: port.count for port in spec.ports}
    assert (spec.nodes, spec.follower_argv) == (1, ())
    assert ports["side_channel"] == 2
    assert "group" not in ports


def test_a_worker_of_more_machines_is_another_generation():
    one, two = ({"data_parallel": 2}, {"data_parallel": 2, "nodes_per_worker": 2})
    assert fleet(llama_pair(decode=one)).generation != fleet(llama_pair(decode=two)).generation


def test_a_server_of_tensorrt_llm_is_one_mpi_job_with_a_rank_for_each_gpu():
    spec = (
        fleet(servers({"tensor_parallel": 8, "pipeline_parallel": 2, "nodes_per_worker": 2}, {})).pool("prefill").spec
    )
    server = spec.argv.index("trtllm-serve")
    assert (spec.nodes, spec.gpus) == (2, 8)
    assert spec.argv[:5] == ("mpirun", "-n", "16", "-H", "localhost:8,node-1:8")
    assert spec.argv[server - 1] == "trtllm-llmapi-launch"
    assert spec.follower_argv[:2] == ("tandem-worker", "join")


def test_the_ranks_of_a_server_meet_at_ports_that_a_policy_can_name():
    pools = servers({"tensor_parallel": 16, "nodes_per_worker": 2}, {"env": {"OMPI_MCA_btl": "self,tcp"}})
    over_two, alone = (fleet(pools).pool(name).spec for name in ("prefill", "decode"))
    ports = {port.name: port.count for port in over_two.ports}
    assert ports["ranks"] == int(over_two.env["OMPI_MCA_btl_tcp_port_range_v4"]) == 2 * over_two.gpus
    assert over_two.env["OMPI_MCA_oob_tcp_dynamic_ipv4_ports"] == "$(TANDEM_PORT_GROUP)"
    assert {name for name in alone.env if name.startswith("OMPI_")} == {"OMPI_MCA_btl"}


def test_a_machine_looks_for_its_own_gpus_only():
    spec = decode_spec(tensor_parallel=8, pipeline_parallel=2, nodes_per_worker=2)
    assert spec.gpus == 8
