"""Rollouts: completions are sampled, scored by reward functions or environments in killable processes, and grouped.

This file imports nothing: reward workers import it and must start in a fraction of a second.
"""
