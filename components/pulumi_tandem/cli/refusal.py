"""A command that cannot do its work."""


class Refusal(Exception):
    """Says why, and what to do; printed without a traceback, exit code 1."""
