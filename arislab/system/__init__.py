"""What the machine asks of every room.

Paths, whole files, processes, texts for terminals and pages, what is hidden in them. It knows no table and no model.
"""
