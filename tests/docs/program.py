"""Runs the Pulumi programs on stdin, a JSON list of texts, with mocks; prints the types of what each registers."""

import json
import os
import sys
from typing import Any

import pulumi

os.environ["TANDEM_ENGINE_PYTHON"] = sys.executable
seen: list[str] = []


class Recorder(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        seen.append(args.typ)
        born = {"evidence": {"generation": "1a2b3c4d"}, "url": "http://127.0.0.1:8080"}  # what only creates know
        return f"{args.name}-id", {**args.inputs, **born}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(args.token)


@pulumi.runtime.test
def run(text: str) -> None:
    exec(compile(text.replace("/opt/engine/bin/python", sys.executable), "<documentation>", "exec"), {})


results: list[list[str]] = []
for text in json.loads(sys.stdin.read()):
    pulumi.runtime.set_mocks(Recorder(), project="tandem", stack="local")
    pulumi.export = lambda _name, _value: None  # exports need a stack resource, which mocks do not make
    run(text)
    results.append(sorted(seen))
    seen.clear()
sys.stdout.write(json.dumps(results))
