"""The supervisor's own parent: starts it again when it is killed, ends when it ends well.

Kept so small that nothing in it can fail; what it watches does all the work.
"""

import os
import signal
import subprocess
import sys
import time

RESTART_DELAY_S = 0.2
RESTARTS_MAX_PER_MINUTE = 20


def main() -> None:
    """Run `python -m pulumi_tandem.local.server STATE_DIR` until it exits with 0."""
    os.chdir("/")
    restarts_s: list[float] = []
    child = None

    def forward(signum: int, _frame: object) -> None:
        if child is not None:
            child.send_signal(signum)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        child = subprocess.Popen([sys.executable, "-m", "pulumi_tandem.local.server", sys.argv[1]])
        if child.wait() == 0:
            return
        now_s = time.monotonic()
        restarts_s = [at_s for at_s in restarts_s if now_s - at_s < 60] + [now_s]
        if len(restarts_s) > RESTARTS_MAX_PER_MINUTE:
            sys.exit(f"the supervisor died {len(restarts_s)} times within a minute; giving up")
        time.sleep(RESTART_DELAY_S)


if __name__ == "__main__":
    main()
