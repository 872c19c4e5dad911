"""What preflight makes to see whether NIXL loads."""

from typing import Any


class nixl_agent_config:  # noqa: N801 - nixl's own name
    """Remembers the backends that are asked for."""

    def __init__(self, backends: list[str], **_: Any) -> None:
        self.backends = backends


class nixl_agent:  # noqa: N801 - nixl's own name
    """Has every backend that it is asked for."""

    def __init__(self, _name: str, config: nixl_agent_config) -> None:
        self.backends = dict.fromkeys(config.backends)
