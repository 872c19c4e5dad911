"""What a stack of Kubernetes objects can rely on: holds for the official provider, and so for its stand-in.

Nothing of it needs a node: the Pods have a scheduler that does not exist, and the test says how they fare.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.api import APPS, BATCH, CORE
from tests.standin import plugin
from tests.standin.conftest import Hands, Stack, failed, finished, succeeded, until


def definition(group: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x_kubernetes_preserve_unknown_fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}, "schema": schema}
    names = {"plural": "probes", "singular": "probe", "kind": "Probe", "listKind": "ProbeList"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"probes.{group}"}, "spec": spec}


def pod_spec(**more: Any) -> dict[str, Any]:
    return {"schedulerName": "by-hand", "containers": [{"name": "main", "image": "none"}], **more}


def template(**more: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec(**more)}


def deployment(name: str = "d", replicas: int = 1, **more: Any) -> dict[str, Any]:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template(**more)}
    return {"metadata": {"name": name}, "spec": spec}


def config_map(value: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "data": {"key": value}}


def managers(obj: dict[str, Any]) -> set[tuple[bool, str]]:
    """Whether each owner of fields is the provider, and by which operation it came to own them."""
    entries = obj["metadata"]["managedFields"]
    return {(entry["manager"].startswith("pulumi-kubernetes"), entry["operation"]) for entry in entries}


def test_a_create_fails_on_an_object_that_exists_and_an_upsert_adopts_it(stack: Stack, hands: Hands) -> None:
    hands.call("POST", f"{CORE}/namespaces/{hands.namespace}/configmaps", config_map("theirs", name="taken"))
    stack.declare("map", "core/v1:ConfigMap", config_map("ours", name="taken"))
    assert 'configmaps "taken" already exists' in stack.fail()
    assert hands.get(CORE, "configmaps", "taken")["data"] == {"key": "theirs"}

    stack.provider["upsert_existing_objects"] = True
    stack.objects["map"]["inputs"]["data"] = {"other": "ours"}
    stack.up()
    assert hands.get(CORE, "configmaps", "taken")["data"] == {"key": "theirs", "other": "ours"}


def test_names_and_namespaces_that_the_program_leaves_out_are_filled_in_and_kept(stack: Stack, hands: Hands) -> None:
    stack.declare("map", "core/v1:ConfigMap", config_map("1"))
    stack.declare(
        "uid", "core/v1:ConfigMap", {"metadata": {"name": "uid"}, "data": {"of": {"$of": "map", "field": "uid"}}}
    )
    stack.up()
    name = stack.state()["map"]["outputs"]["metadata"]["name"]
    live = hands.get(CORE, "configmaps", name)
    assert name.startswith("map-") and live["metadata"]["annotations"] == {"pulumi.com/autonamed": "true"}
    assert stack.state()["map"]["id"] == f"{hands.namespace}/{name}"
    assert hands.get(CORE, "configmaps", "uid")["data"] == {"of": live["metadata"]["uid"]}
    assert stack.is_unchanged()


def test_changed_contents_replace_a_config_map_before_it_goes_or_after_if_it_keeps_its_name(
    stack: Stack, hands: Hands
) -> None:
    for value in ("1", "2"):
        stack.declare("free", "core/v1:ConfigMap", config_map(value))
        stack.declare("fixed", "core/v1:ConfigMap", config_map(value, name="fixed"))
        stack.declare("label", "core/v1:ConfigMap", config_map("1", name="label", labels={"is": value}))
        printed = stack.up()
    order = [line.split()[2:] for line in printed.splitlines() if " free " in line or " fixed " in line]
    steps = {name: [" ".join(words[1:3]) for words in order if words[0] == name] for name in ("free", "fixed")}
    assert steps["free"].index("created replacement") < steps["free"].index("deleting original")
    assert steps["fixed"].index("deleted original") < steps["fixed"].index("creating replacement")
    assert "label updated" in printed
    assert hands.get(CORE, "configmaps", "fixed")["data"] == {"key": "2"}

    stack.provider["enable_config_map_mutable"] = True
    stack.declare("fixed", "core/v1:ConfigMap", config_map("3", name="fixed"))
    assert "fixed updated" in stack.up()


def test_an_update_is_applied_and_takes_over_what_its_own_create_owned(stack: Stack, hands: Hands) -> None:
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map", labels={"a": "1", "b": "1"}))
    stack.up()
    assert managers(hands.get(CORE, "configmaps", "map")) == {(True, "Update")}
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map", labels={"a": "2"}))
    stack.up()
    live = hands.get(CORE, "configmaps", "map")
    assert live["metadata"]["labels"] == {"a": "2"}
    assert managers(live) == {(True, "Apply")}
    assert stack.is_unchanged()


def every_kind() -> dict[str, dict[str, Any]]:
    """Objects whose inputs the API server writes in another way: zeros, other units, defaults within lists."""
    selector = {"matchLabels": {"app": "a"}}
    mount = {"name": "tmp", "mountPath": "/tmp", "readOnly": False}
    limits = {"cpu": "0.5", "memory": "1024Mi"}
    container = {"name": "main", "image": "none", "resources": {"limits": limits}, "volumeMounts": [mount]}
    environment = [{"name": "EMPTY", "value": ""}]
    pod = pod_spec(
        containers=[{**container, "env": environment}],
        volumes=[{"name": "tmp", "emptyDir": {}}],
        hostIPC=False,
        automountServiceAccountToken=False,
        terminationGracePeriodSeconds=0,
    )
    role = {"kind": "Role", "apiGroup": "rbac.authorization.k8s.io", "name": "x"}
    backend = {"service": {"name": "x", "port": {"number": 80}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}
    workload = {"selector": selector, "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod}}
    templates = [{"metadata": {"name": "tmp"}, "spec": claim}]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}
    return {
        "apps/v1:DaemonSet": {"spec": workload},
        "apps/v1:Deployment": {"spec": {**workload, "replicas": 0}},
        "apps/v1:StatefulSet": {
            "spec": {**workload, "replicas": 0, "serviceName": "x", "volumeClaimTemplates": templates}
        },
        "autoscaling/v2:HorizontalPodAutoscaler": {"spec": {"maxReplicas": 3, "scaleTargetRef": target}},
        "batch/v1:Job": {"spec": {"backoffLimit": 0, "template": {"spec": {**pod, "restartPolicy": "Never"}}}},
        "coordination.k8s.io/v1:Lease": {"spec": {"holderIdentity": "x"}},
        "core/v1:PersistentVolumeClaim": {"spec": claim},
        "core/v1:Pod": {"spec": pod},
        "core/v1:Service": {"spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}},
        "core/v1:ServiceAccount": {"automountServiceAccountToken": False},
        "networking.k8s.io/v1:Ingress": {"spec": {"rules": [{"host": "x.test", "http": {"paths": paths}}]}},
        "networking.k8s.io/v1:NetworkPolicy": {
            "spec": {"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]}
        },
        "policy/v1:PodDisruptionBudget": {"spec": {"maxUnavailable": 1, "selector": selector}},
        "rbac.authorization.k8s.io/v1:Role": {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        "rbac.authorization.k8s.io/v1:RoleBinding": {"roleRef": role, "subjects": []},
    }


def test_objects_of_every_kind_are_updated_in_place_and_unchanged_after_a_refresh(stack: Stack) -> None:
    kinds = every_kind()
    for value in ("1", "2"):
        metadata = {"name": "x", "labels": {"is": value}, "annotations": {"pulumi.com/skipAwait": "true"}}
        for kind, inputs in kinds.items():
            stack.declare(kind.partition(":")[2], kind, {"metadata": metadata, **inputs})
        printed = stack.up()
    assert f"~ {len(kinds)} updated" in printed and "replaced" not in printed
    succeeded(stack.run("preview", "--refresh", "--expect-no-changes"))


def test_a_field_that_somebody_else_took_is_a_conflict_unless_it_is_forced(stack: Stack, hands: Hands) -> None:
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map", labels={"a": "1"}))
    stack.up()
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map", labels={"a": "2"}))
    stack.up()
    hands.merge(CORE, "configmaps", "map", {"metadata": {"labels": {"a": "theirs"}}})
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map", labels={"a": "3"}))
    printed = stack.fail()
    assert "Server-Side Apply field conflict detected" in printed and 'conflict with "somebody"' in printed

    forced = config_map("1", name="map", labels={"a": "3"}, annotations={"pulumi.com/patchForce": "true"})
    stack.declare("map", "core/v1:ConfigMap", forced)
    stack.up()
    assert hands.get(CORE, "configmaps", "map")["metadata"]["labels"] == {"a": "3"}


def test_a_preview_is_a_dry_run_on_the_api_server(stack: Stack, hands: Hands) -> None:
    stack.declare("good", "apps/v1:Deployment", deployment("good", replicas=0))
    stack.up()
    stack.declare("elsewhere", "core/v1:ConfigMap", config_map("1", namespace="made-by-the-update"))
    succeeded(stack.run("preview"))
    # One mistake at a time: Pulumi asks for nothing more once it has heard of one.
    stack.declare("good", "apps/v1:Deployment", deployment("good", replicas=-1))
    assert "must be greater than or equal to 0" in failed(stack.run("preview"))
    stack.declare("good", "apps/v1:Deployment", deployment("good", replicas=0))
    stack.declare("bad", "apps/v1:Deployment", deployment("Bad_Name"))
    assert "a lowercase RFC 1123 subdomain" in failed(stack.run("preview"))
    assert hands.names(APPS, "deployments") == ["good"]


def test_a_kind_that_the_api_server_does_not_serve_is_an_error_that_says_so(stack: Stack) -> None:
    stack.declare("odd", "example.test/v1:Thing", {"metadata": {"name": "odd"}})
    assert succeeded(stack.run("preview"))
    printed = stack.fail()
    assert "the apiVersion for this resource does not exist" in printed
    assert 'no matches for kind "Thing" in version "example.test/v1"' in printed


@pytest.fixture
def group(hands: Hands) -> Iterator[str]:
    """An API group of the test's own."""
    group = f"{hands.namespace}.test"
    yield group
    hands.call("DELETE", f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/probes.{group}")


def test_a_custom_resource_is_awaited_only_where_it_asks_for_it(stack: Stack, hands: Hands, group: str) -> None:
    asked = {"name": "asked", "annotations": {"pulumi.com/waitFor": '["condition=Done", "jsonpath={.status.of}=1"]'}}
    stack.declare("definition", "apiextensions.k8s.io/v1:CustomResourceDefinition", definition(group))
    stack.declare("unasked", f"{group}/v1:Probe", {"metadata": {"name": "unasked"}, "spec": {"any": 1}})
    stack.up()

    stack.declare("asked", f"{group}/v1:Probe", {"metadata": asked})
    update = stack.start("up", "--yes", "--skip-preview")
    until(lambda: "asked" in hands.names(f"apis/{group}/v1", "probes"))
    condition = {"type": "Done", "status": "True"}
    hands.set_status(f"apis/{group}/v1", "probes", "asked", {"conditions": [condition]})
    assert not has_ended(update, 2.0)
    hands.set_status(f"apis/{group}/v1", "probes", "asked", {"conditions": [condition], "of": 1})
    succeeded(finished(update))


def has_ended(process: subprocess.Popen[str], patience_s: float) -> bool:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_deployment_that_does_not_get_ready_fails_the_update_and_the_next_one_waits_again(
    stack: Stack, hands: Hands
) -> None:
    stack.declare("d", "apps/v1:Deployment", deployment(), timeouts={"create": "4s", "update": "30s"})
    update = stack.start("up", "--yes", "--skip-preview")
    [pod] = hands.pods()
    hands.make_crash_again(pod)
    printed = failed(finished(update))
    assert "'d' timed out waiting to be Ready" in printed
    assert "[MinimumReplicasUnavailable] Deployment does not have minimum availability." in printed
    assert f"[Pod {hands.namespace}/{pod}]: " in printed and "[CrashLoopBackOff] back-off 10s" in printed
    assert stack.state()["d"]["initErrors"]

    update = stack.start("up", "--yes", "--skip-preview")
    hands.make_ready(pod)
    succeeded(finished(update))
    assert "initErrors" not in stack.state()["d"]


def test_a_rollout_waits_for_the_new_pods_and_a_deletion_for_the_last_one(stack: Stack, hands: Hands) -> None:
    stack.declare("d", "apps/v1:Deployment", deployment())
    update = stack.start("up", "--yes", "--skip-preview")
    [old] = hands.pods()
    hands.make_ready(old)
    succeeded(finished(update))

    stack.declare("d", "apps/v1:Deployment", deployment(hostname="new"))
    update = stack.start("up", "--yes", "--skip-preview")
    [new] = set(hands.pods(2)) - {old}
    assert not has_ended(update, 1.0)
    hands.make_ready(new)
    succeeded(finished(update))
    stack.objects.clear()
    stack.up()
    assert hands.names(CORE, "pods") == []


def job(**more: Any) -> dict[str, Any]:
    metadata = {"name": "j", "annotations": {"pulumi.com/replaceUnready": "true"}}
    spec = {"backoffLimit": 0, "template": {"spec": pod_spec(restartPolicy="Never", **more)}}
    return {"metadata": metadata, "spec": spec}


def test_a_failed_job_fails_the_update_with_its_pods_last_words_and_runs_again(stack: Stack, hands: Hands) -> None:
    stack.declare("j", "batch/v1:Job", job())
    update = stack.start("up", "--yes", "--skip-preview")
    [pod] = hands.pods()
    hands.make_crash(pod, "KV did not move")
    printed = failed(finished(update))
    assert "[BackoffLimitExceeded] Job has reached the specified backoff limit" in printed
    assert "[Error] KV did not move" in printed

    update = stack.start("up", "--yes", "--skip-preview")
    again = until(lambda: next(iter(set(hands.names(CORE, "pods")) - {pod}), ""))
    hands.set_status(CORE, "pods", again, {"phase": "Succeeded"})
    assert "j replaced" in succeeded(finished(update))
    assert hands.names(BATCH, "jobs") == ["j"]


def test_a_service_waits_for_ready_endpoints_unless_nobody_asks_for_them(stack: Stack, hands: Hands) -> None:
    ports = [{"port": 80}]
    selecting = {"selector": {"app": "a"}, "ports": ports}
    skipping = {"name": "skipping", "annotations": {"pulumi.com/skipAwait": "true"}}
    pod = {"metadata": {"name": "p", "labels": {"app": "a"}}, "spec": pod_spec()}
    hands.call("POST", f"{CORE}/namespaces/{hands.namespace}/pods", pod)
    hands.set_status(CORE, "pods", "p", {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]})
    stack.declare(
        "headless", "core/v1:Service", {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", **selecting}}
    )
    stack.declare("unselecting", "core/v1:Service", {"metadata": {"name": "u"}, "spec": {"ports": ports}})
    stack.declare("skipping", "core/v1:Service", {"metadata": skipping, "spec": selecting})
    stack.declare(
        "waiting", "core/v1:Service", {"metadata": {"name": "w"}, "spec": selecting}, timeouts={"create": "3s"}
    )
    printed = stack.fail()
    assert "Service does not target any Pods" in printed
    assert {name for name, resource in stack.state().items() if "initErrors" in resource} == {"waiting"}


def test_replicas_that_an_autoscaler_changed_are_left_to_it_where_the_program_ignores_them(
    stack: Stack, hands: Hands
) -> None:
    skipping = {"annotations": {"pulumi.com/skipAwait": "true"}}
    for name, options in (("ours", {}), ("theirs", {"ignore_changes": ["spec.replicas"]})):
        declared = deployment(name)
        declared["metadata"] |= skipping
        stack.declare(name, "apps/v1:Deployment", declared, **options)
    stack.up()
    for name in ("ours", "theirs"):
        hands.merge(APPS, "deployments", name, {"spec": {"replicas": 3}}, manager="autoscaler")
    printed = succeeded(stack.run("preview", "--refresh", "--diff"))
    assert "deployment/ours" in printed.lower() or ":ours]" in printed
    stack.objects["theirs"]["inputs"]["spec"]["template"]["spec"]["hostname"] = "new"
    del stack.objects["ours"]
    stack.up("--refresh")
    assert hands.get(APPS, "deployments", "theirs")["spec"]["replicas"] == 3


def test_a_deletion_is_awaited_and_tells_what_keeps_the_object(stack: Stack, hands: Hands) -> None:
    stack.declare("held", "core/v1:ConfigMap", config_map("1", name="held"), timeouts={"delete": "2s"})
    stack.up()
    hands.merge(CORE, "configmaps", "held", {"metadata": {"finalizers": ["tandem.test/held"]}})
    printed = failed(stack.run("destroy", "--yes", "--skip-preview"))
    assert "finalizers might be preventing deletion (tandem.test/held)" in printed

    hands.merge(CORE, "configmaps", "held", {"metadata": {"finalizers": None}})
    succeeded(stack.run("destroy", "--yes", "--skip-preview"))
    assert "held" not in hands.names(CORE, "configmaps")


def test_an_interrupted_update_stops_waiting_and_keeps_what_it_made(stack: Stack, hands: Hands) -> None:
    stack.declare("d", "apps/v1:Deployment", deployment())
    update = stack.start("up", "--yes", "--skip-preview")
    [pod] = hands.pods()
    update.send_signal(signal.SIGINT)
    printed = failed(finished(update))
    assert 'Resource operation was cancelled for "d"' in printed
    hands.make_ready(pod)
    stack.up()
    assert hands.names(CORE, "pods") == [pod]


def test_a_killed_cli_leaves_no_provider_behind(stack: Stack, hands: Hands) -> None:
    stack.declare("d", "apps/v1:Deployment", deployment())
    update = stack.start("up", "--yes", "--skip-preview")
    hands.pods()
    plugins = [child for child in psutil.Process(update.pid).children() if plugin.NAME in "".join(child.cmdline())]
    plugins += [child for child in psutil.Process(update.pid).children() if "tests.standin" in child.cmdline()]
    assert plugins
    update.kill()
    failed(finished(update))
    assert psutil.wait_procs(plugins, timeout=10)[1] == []


def test_existing_objects_can_be_read(stack: Stack, hands: Hands) -> None:
    hands.call("POST", f"{CORE}/namespaces/{hands.namespace}/configmaps", config_map("theirs", name="theirs"))
    stack.declare("theirs", "core/v1:ConfigMap", {}, id=f"{hands.namespace}/theirs")
    stack.up()
    assert stack.state()["theirs"]["outputs"]["data"] == {"key": "theirs"}
    stack.declare("missing", "core/v1:ConfigMap", {}, id=f"{hands.namespace}/missing")
    assert "missing' does not exist" in stack.fail()


def test_what_the_program_hides_and_what_secrets_hold_is_encrypted_in_the_state(stack: Stack) -> None:
    hidden = {"metadata": {"name": "m"}, "data": {"key": {"$secret": "canary-of-the-map"}}}
    stack.declare("secret", "core/v1:Secret", {"metadata": {"name": "s"}, "stringData": {"key": "canary"}})
    stack.declare("map", "core/v1:ConfigMap", hidden)
    stack.up()
    stack.up("--refresh")
    kept = (stack.folder / "backend/.pulumi/stacks/standin/test.json").read_text()
    assert "canary-of-the-map" not in kept
    assert "Y2FuYXJ5" not in kept  # the Secret's, in base64
    assert stack.is_unchanged()


def test_another_address_replaces_nothing_while_the_cluster_is_the_same(stack: Stack) -> None:
    stack.declare("map", "core/v1:ConfigMap", config_map("1", name="map"))
    stack.up()
    config = Path(stack.provider["kubeconfig"]).read_text()
    stack.provider["kubeconfig"] = config.replace("127.0.0.1", "localhost")
    printed = succeeded(stack.run("preview"))
    assert "replace" not in printed
