"""Run records as they lie in papermill_runs/: found, read, listed, compared, handed on.

``record`` says what one holds; ``files``, ``find`` and ``index`` read one, some or ten thousand; ``frame`` shows them.

Nothing is imported here, since listing runs must be quick. It runs nothing.
"""
