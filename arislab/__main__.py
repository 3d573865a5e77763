"""``python -m arislab`` is the ``arislab`` command: one verb a call, and what the user must mend as one message."""

import os
import sys

from arislab.errors import ArislabError


def main() -> None:
    """Run the command; what the user must fix prints as one message, without a traceback."""
    words = sys.argv[1:]
    try:
        if words[:1] == ["runs"] and (len(words) == 1 or words[1].startswith("-")):
            from arislab import listing

            listing.main(words[1:])
        else:
            from arislab import cli

            cli.app(cli.joined(words), standalone_mode=True)
        if sys.stdout is not None:  # closed by who started us
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ArislabError as error:
        print(f"arislab: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
