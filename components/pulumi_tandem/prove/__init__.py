"""The proof: real requests through the front door, and the engines' own counters before and after.

`plan` says which requests, `run` sends them, `judge` says what the measurements mean. Only `run` touches the world.
"""
