"""Builds Tandem's images and pushes them: `pulumi up` needs Docker (or another BuildKit) and a registry.

A stack that serves takes the digests from this one's outputs, so that a new image is a new generation there.
"""

from pathlib import Path

import pulumi_docker_build as docker_build

import pulumi

REPOSITORY = Path(__file__).resolve().parents[2]

config = pulumi.Config()
registry = config.require("registry")
images: list[str] = config.get_object("images") or ["gateway", "vllm"]

for name in images:
    repository = f"{registry}/tandem-{name}"
    cache = f"{repository}:buildcache"
    image = docker_build.Image(
        name,
        context=docker_build.BuildContextArgs(location=str(REPOSITORY)),
        dockerfile=docker_build.DockerfileArgs(location=str(REPOSITORY / "worker" / f"Containerfile.{name}")),
        platforms=[docker_build.Platform.LINUX_AMD64],
        tags=[f"{repository}:0.1.0"],
        push=True,
        build_on_preview=False,
        cache_from=[docker_build.CacheFromArgs(registry=docker_build.CacheFromRegistryArgs(ref=cache))],
        cache_to=[
            docker_build.CacheToArgs(
                registry=docker_build.CacheToRegistryArgs(
                    ref=cache, mode=docker_build.CacheMode.MAX, image_manifest=True, oci_media_types=True
                )
            )
        ],
    )
    pulumi.export(name, image.ref)
