"""What Tandem changes inside a vLLM process, loaded by vLLM itself as a general plugin."""


def register() -> None:
    """Called by vLLM once in its API server, engine core and every worker process."""
