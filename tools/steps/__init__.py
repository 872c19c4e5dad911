"""The steps of tools/bootstrap.py, standard library only.

Rule: a step is a value (`frame.Step`) that names its inputs and its result; `frame.carry_out`
alone decides whether it runs. A result that lies in the shared cache is made beside its place and
renamed into it, so a killed bootstrap leaves nothing half-done that looks whole.
"""
