"""Rollouts: reward functions in killable workers, and completions collected into scored groups.

Imports nothing: the reward workers pass through here and must start in a fraction of a second.
"""
