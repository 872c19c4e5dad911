"""Runs the module named like the stack: `pulumi up --stack local` runs local.py."""

import importlib

import pulumi

stack = pulumi.get_stack()
module = stack.replace("-", "_")
try:
    importlib.import_module(module)
except ModuleNotFoundError as error:
    if error.name != module:
        raise
    msg = f"no program for stack {stack!r}: stacks/{module}.py does not exist. Write it, or select another stack"
    raise pulumi.RunError(msg) from None
