"""Fakes that speak the exact wire of the real thing: an engine, an agent, a fleet of both."""
