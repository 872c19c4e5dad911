"""`tandem-worker agent ...`, `tandem-worker gateway ...` and `tandem-worker weights ...`: one program.

Each part is imported only when asked for, so that none pays for another's imports. `launch` and `join` are not
for people: `mpirun` and an agent call them, where an engine spans machines (`tandem_worker.agent.launch`).
"""

import sys
from collections.abc import Sequence

USAGE = "usage: tandem-worker {agent,gateway,weights} [options]; see `tandem-worker agent --help`"
EXIT_USAGE = 64
"""EX_USAGE of sysexits.h; the agent uses the same number for a spec it cannot accept."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part of the worker and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    match words[:1]:
        case ["agent"]:
            from tandem_worker.agent.main import main as agent_main  # noqa: PLC0415 - see above

            return agent_main(words[1:])
        case ["gateway"]:
            from tandem_worker.gateway.main import main as gateway_main  # noqa: PLC0415 - see above

            return gateway_main(words[1:])
        case ["weights"]:
            from tandem_worker.weights.main import main as weights_main  # noqa: PLC0415 - see above

            return weights_main(words[1:])
        case ["launch" | "join" as step]:
            from tandem_worker.agent import launch  # noqa: PLC0415 - see above

            return {"launch": launch.launch, "join": launch.join}[step](words[1:])
        case ["-h" | "--help"]:
            sys.stdout.write(USAGE + "\n")
            return 0
        case _:
            sys.stderr.write(USAGE + "\n")
            return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
