"""What answers the lines of a batch: a local model, other chat servers, vLLM, recorded answers, an echo, with faults.

``base`` says what an engine is, ``echo`` is the shortest one, and ``choose`` makes the one that options ask for.
"""
