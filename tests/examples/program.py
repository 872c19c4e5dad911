"""Runs a Pulumi program with mocks and settings, a process each; prints the inputs of what it registers, by name."""

import json
import runpy
import sys
from typing import Any

import pulumi

inputs: dict[str, dict[str, Any]] = {}


class Recorder(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        inputs[args.name] = args.inputs
        return f"{args.name}-id", {**args.inputs, "ref": f"{args.name}@sha256:0"}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(args.token)


@pulumi.runtime.test
def run() -> None:
    runpy.run_path(sys.argv[1])


pulumi.runtime.set_mocks(Recorder(), project="tandem-images", stack="test")
pulumi.runtime.set_all_config(json.loads(sys.argv[2]))
pulumi.export = lambda _name, _value: None  # exports need a stack resource, which mocks do not make
run()
sys.stdout.write(json.dumps(inputs))
