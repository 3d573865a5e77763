"""The embedded model: a small Llama trained from scratch on a grammar of candidate evaluations."""
