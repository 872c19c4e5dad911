"""The very objects of the components, each a resource of `pulumi_kubernetes`, read from the file `SCALE_OBJECTS`.

As somebody would write them who knows what must be there before what, which fields others change, and how long things
take. It imports nothing of ours.
"""

import json
import os
from pathlib import Path
from typing import Any

import pulumi_kubernetes as k8s

import pulumi

KINDS = {
    "ConfigMap": k8s.core.v1.ConfigMap,
    "Deployment": k8s.apps.v1.Deployment,
    "Job": k8s.batch.v1.Job,
    "NetworkPolicy": k8s.networking.v1.NetworkPolicy,
    "PodDisruptionBudget": k8s.policy.v1.PodDisruptionBudget,
    "Role": k8s.rbac.v1.Role,
    "RoleBinding": k8s.rbac.v1.RoleBinding,
    "Service": k8s.core.v1.Service,
    "ServiceAccount": k8s.core.v1.ServiceAccount,
}
ARGUMENTS = {"roleRef": "role_ref", "automountServiceAccountToken": "automount_service_account_token"}

access = k8s.Provider("cluster", kubeconfig=os.environ["SCALE_KUBECONFIG"])
services = json.loads(Path(os.environ["SCALE_OBJECTS"]).read_text())
for objects in services[: int(os.environ["SCALE_SERVICES"])]:
    made: dict[str, pulumi.Resource] = {}
    for one in objects:
        manifest: dict[str, Any] = one["manifest"]
        timeout: str | None = one["timeout"]
        fields = {
            ARGUMENTS.get(key, key): value for key, value in manifest.items() if key not in {"apiVersion", "kind"}
        }
        opts = pulumi.ResourceOptions(
            provider=access,
            depends_on=[made[key] for key in one["after"]],
            ignore_changes=one["ignored"],
            custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout) if timeout else None,
        )
        made[one["key"]] = KINDS[manifest["kind"]](manifest["metadata"]["name"], opts=opts, **fields)
