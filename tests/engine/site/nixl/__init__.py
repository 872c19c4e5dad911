"""Stands in for nixl, which the fake engine does not use."""
