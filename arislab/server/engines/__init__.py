"""What answers the lines of a batch.

A local model, other chat servers, vLLM, recorded answers, an echo, an echo with faults.
"""
