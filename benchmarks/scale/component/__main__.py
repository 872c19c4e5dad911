"""The services, each one component."""

import os

import pulumi_kubernetes as k8s

import pulumi
from benchmarks.scale.services import IMAGES, service
from pulumi_tandem import kubernetes

access = k8s.Provider("cluster", kubeconfig=os.environ["SCALE_KUBECONFIG"])
for number in range(int(os.environ["SCALE_SERVICES"])):
    declared = service(number)
    kubernetes.Inference(
        declared.name,
        kubernetes.InferenceArgs(service=declared, images=IMAGES),
        pulumi.ResourceOptions(providers=[access]),
    )
