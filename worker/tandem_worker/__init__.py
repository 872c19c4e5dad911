"""tandem-worker: the agent beside an engine and the gateway before the fleet."""
