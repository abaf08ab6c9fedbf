"""What runs in the box, by itself: takes limits on, runs a program, says whether it got through.

It is read as text and given to ``python -c``; it imports nothing of rolora.
"""

import json
import os
import resource
import sys


def main() -> None:
    """Carry out the program on standard input within the limits of the first argument."""
    limits = json.loads(sys.argv[1])
    source = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    word, program = source.split("\n", 1)
    answer = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    except BaseException:  # SystemExit as well: whoever leaves early has not been tested
        os._exit(1)
    os.write(answer, word.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
