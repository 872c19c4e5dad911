"""The KV transfer agent: parent of one engine, from preflight to the end of its process tree.

In: a `WorkerSpec` and the place's address and ports. Out: HTTP on the agent's port, the engine's lines
on stdout, an exit code. `decide` and `preflight` are pure; `run`, `processes`, `observe` and `probe`
touch the world. It restarts nothing: whoever started it does.
"""
