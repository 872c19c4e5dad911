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
        self.transfers = 0

    def done_s(self, now_s: float, sender: Engine, receiver: Engine, tokens: int) -> float:
        """When a transfer that is asked for now is done."""
        hand_off = self._hand_off
        moved_bytes = hand_off.kv_bytes(tokens)
        self.moved_bytes += moved_bytes
        self.transfers += 1
        line = min(sender.model.line_gb_per_s, receiver.model.line_gb_per_s) * 1e9
        free_s = max(now_s, self._free_s.get(sender, 0.0), self._free_s.get(receiver, 0.0))
        done_s = free_s + moved_bytes / line
        self._fabric_free_s = max(now_s, self._fabric_free_s) + moved_bytes / (hand_off.fabric_gb_per_s * 1e9)
        done_s = max(done_s, self._fabric_free_s)
        self._free_s[sender] = self._free_s[receiver] = done_s
        return done_s + hand_off.posted_s(tokens)
