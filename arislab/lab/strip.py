"""nbstripout as the filter of a lab's repository: ``python -m arislab.lab.strip`` takes its options.

git starts one process a notebook, and of each 1.4 s of 1.5 would be an import for the sake of what no notebook holds.
"""

from arislab.system import imports


def main() -> None:
    """Strip the notebook of standard input, as nbstripout does."""
    imports.jsonschema()  # before nbformat does
    from nbstripout import main as strip

    strip()


if __name__ == "__main__":
    main()
