"""Environments: they answer the model between its turns, and reward the rollout.

base.py                         the protocol that users implement
server.py, session.py           environment side: the process of one rollout
adapters.py, verifiers_adapter.py   environment side: other kinds of environments
pool.py, processes.py           the parent's end of those processes
episode.py, episode_result.py   one rollout, from its prompt to its reward
turn_tokens.py, tool_*.py       from messages to tokens, and from tokens to tool calls

The environment side imports no torch.
"""
