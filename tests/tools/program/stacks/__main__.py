"""Two resources, one of them of a dynamic provider, and every way in which a program can end."""

import os
import sys
from typing import Any

from pulumi.dynamic import CreateResult, Resource, ResourceProvider

import pulumi

config = pulumi.Config()


class Echo(ResourceProvider):
    """Gives back what it was told."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("echo", {"word": props["word"]})


class Word(Resource):
    """A word that a dynamic provider has repeated."""

    word: pulumi.Output[str]

    def __init__(self, name: str, word: pulumi.Input[str]) -> None:
        super().__init__(Echo(), name, {"word": word})


match config.get("end"):
    case "user-error":
        msg = "two things are wrong:\n - this\n - that"
        raise pulumi.RunError(msg)
    case "bug":
        msg = "a bug"
        raise ValueError(msg)
    case "exit":
        sys.exit(5)
    case "kill":
        os.kill(os.getpid(), 9)
    case _:
        pulumi.export("word", Word("word", config.require("word")).word)
        pulumi.export("secret", Word("secret", config.require_secret("secret")).word)
        pulumi.export("interpreter", sys.prefix)
