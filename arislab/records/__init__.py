"""Run records as they lie in papermill_runs/: found, read, listed, compared, handed on.

Nothing is imported here, since listing runs must be quick. It runs nothing.
"""
