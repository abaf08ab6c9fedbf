"""The command line in this process."""

import sys

from rolora.cli import main as cli


def rolora(*arguments):
    """Run a command; returns its exit code."""
    argv, sys.argv = sys.argv, ["rolora", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as exit_:
        return 0 if exit_.code is None else exit_.code
    finally:
        sys.argv = argv
    return 0
