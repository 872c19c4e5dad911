"""Which prefill worker gets a prompt: the gateway's choice against others, in the simulation and on real engines."""
