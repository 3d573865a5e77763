"""``python -m arislab`` is the ``arislab`` command: one verb a call, and what the user must mend as one message."""

import atexit
import gc
import os
import sys
import warnings
from typing import Any, TextIO

from arislab.errors import ArislabError
from arislab.system import paths
from arislab.system.text import print


def main() -> None:
    """Run the command; what the user must fix prints as one message, without a traceback."""
    atexit.register(gc.freeze)  # else Python looks for circles in all that is left: a tenth of a second at each end
    gc.set_threshold(100_000, *gc.get_threshold()[1:])  # not every 700 objects: rows are many, and none is in a circle
    sys.excepthook = _crash
    warnings.showwarning = _warning
    try:
        words = paths.without_lake(sys.argv[1:])
        if words[:1] == ["runs"] and (len(words) == 1 or words[1].startswith("-")):
            from arislab.cli import listing

            listing.main(words[1:])
        else:
            from arislab.cli import main as cli

            cli.app(cli.joined(words), standalone_mode=True)
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ArislabError as error:
        print(f"arislab: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _crash(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print a traceback without secrets, and without what steers a terminal."""
    import traceback

    print("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as Python does, likewise."""
    print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)


if __name__ == "__main__":
    main()
