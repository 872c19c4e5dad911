"""Stands in for vLLM where a test is about Pulumi, processes and roll-outs, not about the engine."""
