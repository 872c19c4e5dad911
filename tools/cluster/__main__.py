"""tools/cluster: up, down or status of this machine's test cluster."""

import argparse
import sys
import time
from collections.abc import Sequence

from cluster.additions import ADDITIONS
from cluster.control import start_control_plane
from cluster.down import end
from cluster.groups import start_groups
from cluster.keys import make_keys
from cluster.node import start_node
from cluster.place import Site, node_address
from cluster.processes import Processes
from steps import images, kubernetes
from steps.frame import Failure, Place, Run, Screen, locked


def up(place: Place, screen: Screen, wanted: Sequence[str], added: Sequence[str]) -> None:
    """Bring the cluster up, with images that pods may name, and with additions.

    Raises: Failure.
    """
    for step in (kubernetes.STEP, *(ADDITIONS[name].step for name in added)):
        if not step.is_done(place):
            raise Failure(f"binaries are not built; run tools/bootstrap.py --only {step.name}")
    started_s = time.monotonic()
    site = Site.of(place)
    processes = Processes(site.home / "processes", site.logs)
    run = _run(place, screen)

    def tell(text: str) -> None:
        screen.line("cluster", "...", f"{time.monotonic() - started_s:5.1f} s  {text}")

    with locked(site.home / "lock", lambda: screen.line("cluster", "waits", "another command is at it")):
        kubernetes.packages(run)
        address = node_address()
        make_keys(site, address, run)
        start_control_plane(site, processes, address)
        tell("control plane")
        start_node(site, processes, address, run)
        tell("node and DNS")
        start_groups(site, processes)
        tell("LeaderWorkerSet")
        if wanted:
            images.import_missing(place, run, site.ctr, wanted)
            tell(f"images {', '.join(wanted)}")
        for name in added:
            ADDITIONS[name].start(place, site, processes, run)
            tell(name)
    screen.line("cluster", "done", f"kubeconfig {site.kubeconfig}")


def _run(place: Place, screen: Screen) -> Run:
    log = place.private / "logs" / "cluster.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Run(log=log, report=lambda text: screen.line("cluster", "...", text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when it is as asked for, and for `status` when everything runs."""
    parser = argparse.ArgumentParser(prog="tools/cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    names = sorted(images.RECIPES)
    text = "an image to import; may be repeated"
    parser.add_argument("--image", action="append", default=[], choices=names, metavar="NAME", help=text)
    text = "what a cluster has only when it is asked for; may be repeated"
    parser.add_argument("--with", action="append", default=[], choices=sorted(ADDITIONS), dest="added", help=text)
    options = parser.parse_args(arguments)
    place, screen = Place.here(), Screen.of(sys.stdout)
    site = Site.of(place)
    processes = Processes(site.home / "processes", site.logs)
    try:
        if options.command == "up":
            up(place, screen, options.image, options.added)
        elif options.command == "down":
            with locked(site.home / "lock", lambda: screen.line("cluster", "waits", "another command is at it")):
                end(site, processes, _run(place, screen))
            screen.line("cluster", "done", "gone; its images stay in the cache")
        else:
            running = processes.running()
            screen.line("cluster", "done" if running else "to do", ", ".join(running) or "nothing runs")
            return 0 if running else 1
    except Failure as failure:
        screen.failure(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
