import pytest

from tests.standin import waiting
from tests.standin.objects import Kind
from tests.standin.ready import RULES, View
from tests.standin.waiting import Settling, timeout_s

SERVICE = Kind("", "v1", "Service")
ENDPOINTS = Kind("", "v1", "Endpoints")


def test_a_service_is_held_back_until_its_endpoints_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now_s)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}}
    settling = Settling(service)

    def is_ready(*addresses: str) -> bool:
        endpoints = {"metadata": {"name": "s"}, "subsets": [{"addresses": list(addresses)}]}
        return settling.judge(View(service, {ENDPOINTS: [endpoints]}), RULES[SERVICE]).is_ready

    assert not is_ready("first")
    now_s = 9.0
    assert not is_ready("first", "straggler")
    now_s = 18.0
    assert not is_ready("first", "straggler")
    now_s = 19.0
    assert is_ready("first", "straggler")


@pytest.mark.parametrize(
    ("custom_s", "annotated", "expected_s"), [(5.0, "7", 5.0), (0.0, "7", 7.0), (0.0, "", None), (0.0, "soon", None)]
)
def test_custom_timeouts_go_before_the_annotation(custom_s: float, annotated: str, expected_s: float | None) -> None:
    inputs = {"metadata": {"annotations": {"pulumi.com/timeoutSeconds": annotated}}}
    assert timeout_s(custom_s, inputs) == expected_s
