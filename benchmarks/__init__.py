"""Measurements in one run on one machine: the gateway against its peer, the pair against itself aggregated."""
