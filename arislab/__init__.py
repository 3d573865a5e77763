"""arislab: batch LLM output to training data you can defend. The notebook decides, the package does, the lake remembers."""

__version__ = "0.1.0"
