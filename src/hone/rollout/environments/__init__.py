"""Environments: what answers a model between its turns, and what it says the whole was worth.

`base.py` is what a user writes against, `session.py` and `adapters.py` run in the process of one rollout (`host.py`);
`pool.py` and `seats.py` are this process's end of it. `tool_calls.py` and `dialog.py` lie between tokens and messages,
`episode.py` is one rollout from its prompt to its end. What runs in environment processes imports no torch.
"""
