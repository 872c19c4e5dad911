"""The program that builds images: buildah, podman or docker, whose command lines differ in few words."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steps.frame import Failure, Run, system_package


@dataclass(frozen=True)
class Builder:
    """One of them, as the words of its commands."""

    name: str
    alive: tuple[str, ...]
    """Exits with 0 where it can build; docker's program is often there without its daemon."""
    build_words: tuple[str, ...]
    save_words: tuple[str, ...]
    """With {tag} and {file}."""

    def build(
        self,
        *,
        containerfile: Path,
        context: Path,
        tag: str,
        arguments: Mapping[str, str],
        secrets: Mapping[str, Path],
    ) -> list[str]:
        """The command that builds an image."""
        words = [*self.build_words, "--file", str(containerfile), "--tag", tag]
        for name, value in arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        for name, file in secrets.items():
            words += ["--secret", f"id={name},src={file}"]
        return [*words, str(context)]

    def save(self, *, tag: str, file: Path) -> list[str]:
        """The command that writes an image into an archive."""
        return [word.format(tag=tag, file=file) for word in self.save_words]

    def tag(self, old: str, new: str) -> list[str]:
        """The command that gives an image a further name."""
        return [self.name, "tag", old, new]


BUILDERS = (
    Builder(
        name="buildah",
        alive=("buildah", "info"),
        # chroot isolation asks for no runtime and works in a container too; the steps of our recipes need no more
        build_words=("buildah", "build", "--isolation", "chroot", "--layers"),
        save_words=("buildah", "push", "{tag}", "oci-archive:{file}:{tag}"),
    ),
    Builder(
        name="podman",
        alive=("podman", "info"),
        build_words=("podman", "build", "--layers"),
        save_words=("podman", "save", "--format=oci-archive", "--output={file}", "{tag}"),
    ),
    Builder(
        name="docker",
        alive=("docker", "info"),
        build_words=("docker", "buildx", "build", "--load"),
        save_words=("docker", "image", "save", "--output={file}", "{tag}"),
    ),
)
"""In the order in which they are asked for: the one that needs least comes first."""


def find_builder(run: Run) -> Builder:
    """The first that works; buildah is installed where that is possible without asking.

    Raises: `Failure` that names what to install.
    """
    found = working(run)
    if found is None:
        system_package(run, "buildah", "no working buildah, podman or docker is here to build images with")
        found = working(run)
    if found is None:
        raise Failure("buildah is installed and `buildah info` fails; the step's log has its reason")
    return found


def working(run: Run) -> Builder | None:
    """The first whose program is there and answers."""
    return next((each for each in BUILDERS if shutil.which(each.name) and run.attempt(*each.alive)[0] == 0), None)
