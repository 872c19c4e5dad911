"""`tandem-worker agent ...` and `tandem-worker gateway ...`: one program, one image.

Each half is imported only when asked for, so that neither pays for the other's imports.
"""

import sys
from collections.abc import Sequence

USAGE = "usage: tandem-worker {agent,gateway} [options]; see `tandem-worker agent --help`"
EXIT_USAGE = 64
"""EX_USAGE of sysexits.h; the agent uses the same number for a spec it cannot accept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one half of the worker and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    match words[:1]:
        case ["agent"]:
            from tandem_worker.agent.main import main as agent_main

            return agent_main(words[1:])
        case ["gateway"]:
            from tandem_worker.gateway.main import main as gateway_main

            return gateway_main(words[1:])
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
        case _:
            print(USAGE, file=sys.stderr)
            return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
