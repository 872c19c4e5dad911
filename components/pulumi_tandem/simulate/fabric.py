"""The network between workers."""

from pulumi_tandem.simulate.engine import Engine
from pulumi_tandem.simulate.scenario import HandOff


class Fabric:
    """When the lines of workers, and what is between them, are free."""

    def __init__(self, hand_off: HandOff) -> None:
        self._hand_off = hand_off
        self._free_s: dict[Engine, float] = {}
        self._fabric_free_s = 0.0
        self.moved_bytes = 0.0
        self.carried_s: dict[int, float] = {}
        """By pool: seconds of all lines of its workers."""

    def done_s(self, now_s: float, sender: Engine, receiver: Engine, tokens: int) -> float:
        """When a transfer that is asked for now is done."""
        hand_off = self._hand_off
        moved_bytes = hand_off.kv_bytes(tokens)
        self.moved_bytes += moved_bytes
        done_s = now_s
        for engine in (sender, receiver):
            carried_s = moved_bytes / (engine.model.line_gb_per_s * 1e9)
            self.carried_s[engine.pool] = self.carried_s.get(engine.pool, 0.0) + carried_s
            self._free_s[engine] = max(now_s, self._free_s.get(engine, 0.0)) + carried_s
            done_s = max(done_s, self._free_s[engine])
        self._fabric_free_s = max(now_s, self._fabric_free_s) + moved_bytes / (hand_off.fabric_gb_per_s * 1e9)
        return max(done_s, self._fabric_free_s) + hand_off.posted_s(tokens)
