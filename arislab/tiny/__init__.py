"""The embedded model: a small Llama trained from scratch on a grammar of candidate evaluations.

``grammar`` is its world, ``candidates`` are people of it; ``pretrain`` trained it, and ``decoder`` answers with it.
"""
