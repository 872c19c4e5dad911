"""The services of the scale run: declarations as a user writes them."""

import pulumi_tandem as tandem
from pulumi_tandem import check, kubernetes
from pulumi_tandem.lower import lower
from pulumi_tandem.manifest import Manifests, Setting, Transform, manifests

IMAGES = kubernetes.Images(worker="tandem.local/worker-vllm:test", gateway="tandem.local/gateway:test")
GPUS_PER_WORKER = 4


def service(number: int) -> tandem.Service:
    """Llama 3.3 70B, prefilled on one worker of four H100 and decoded on another."""
    pool = tandem.Pool(gpu="H100", tensor_parallel=GPUS_PER_WORKER, pod=tandem.Pod(disruption_min_available=0))
    return tandem.Service(
        name=f"chat-{number:02}",
        model=tandem.Model(name="Llama-3.3-70B-Instruct"),
        prefill=pool,
        decode=pool,
        context_tokens=16_384,
    )


def rendered(number: int, namespace: str, **transforms: Transform) -> Manifests:
    """The objects of a service, as its component registers them."""
    (resolved,) = check.accept(service(number))
    return manifests(resolved, lower(resolved), Setting(images=IMAGES, namespace=namespace), transforms)
