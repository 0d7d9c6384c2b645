"""The `overflowml` command, in this process: `python -m overflowml` and the `overflowml` script."""

import signal
import sys

from overflowml._native import main


def run() -> int:
    """Runs the command with the arguments of this process; returns its exit code."""
    # Python only notes Ctrl-C and acts on it between two of its own instructions, of which there are none for as long
    # as the command runs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
