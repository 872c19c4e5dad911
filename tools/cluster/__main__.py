"""tools/cluster: up, down or status of this machine's test cluster."""

import argparse
import sys
import time
from collections.abc import Sequence

from cluster.additions import ADDITIONS
from cluster.control import start_control_plane
from cluster.down import end
from cluster.groups import start_groups
from cluster.host import Host
from cluster.keys import make_keys
from cluster.network import await_dns, start_network
from cluster.node import start_node
from cluster.place import FIRST, Site, node_address
from cluster.processes import Processes
from steps import images, kubernetes
from steps.frame import Failure, Place, Run, Screen, locked


def up(host: Host, screen: Screen, wanted: Sequence[str], added: Sequence[str]) -> None:
    """Bring the cluster up, with images that pods may name, and with additions.

    Raises: Failure.
    """
    for step in (kubernetes.STEP, *(step for name in added for step in ADDITIONS[name].steps)):
        if not step.is_done(host.place):
            raise Failure(f"its binaries are not built; run tools/bootstrap.py --only {step.name}")
    started_s = time.monotonic()

    def tell(text: str) -> None:
        screen.line("cluster", "...", f"{time.monotonic() - started_s:5.1f} s  {text}")

    kubernetes.packages(host.run)
    make_keys(host.site, host.address, host.run)
    start_control_plane(host.site, host.processes, host.address)
    tell("control plane")
    start_network(host)
    start_node(host, FIRST)
    await_dns(host.processes)
    tell("node and DNS")
    start_groups(host.site, host.processes)
    tell("LeaderWorkerSet")
    if wanted:
        images.import_missing(host.place, host.run, FIRST.ctr, wanted)
        tell(f"images {', '.join(wanted)}")
    for name in added:
        ADDITIONS[name].start(host)
        tell(name)
    screen.line("cluster", "done", f"kubeconfig {host.site.kubeconfig}")


def down(host: Host, screen: Screen, added: Sequence[str]) -> None:
    """End the additions that are named, else everything."""
    for name in added or ADDITIONS:
        ADDITIONS[name].end(host)
    if not added:
        end(host)
    screen.line("cluster", "done", f"{', '.join(added)} gone" if added else "gone; its images stay in the cache")


def _host(place: Place, screen: Screen) -> Host:
    site, log = Site.of(place), place.private / "logs" / "cluster.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Host(
        place=place,
        site=site,
        processes=Processes(site.home / "processes", site.logs),
        run=Run(log=log, report=lambda text: screen.line("cluster", "...", text)),
        address=node_address(),
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/cluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    names = sorted(images.RECIPES)
    text = "an image to import; may be repeated"
    parser.add_argument("--image", action="append", default=[], choices=names, metavar="NAME", help=text)
    text = f"what `up` adds, or what alone `down` ends: {', '.join(ADDITIONS)}; may be repeated"
    parser.add_argument(
        "--with", action="append", default=[], choices=sorted(ADDITIONS), metavar="NAME", dest="added", help=text
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when it is as asked for, and for `status` when everything runs."""
    options = _parse(arguments)
    screen = Screen.of(sys.stdout)
    host = _host(Place.here(), screen)
    if options.command == "status":
        running = host.processes.running()
        screen.line("cluster", "done" if running else "to do", ", ".join(running) or "nothing runs")
        return 0 if running else 1
    try:
        with locked(host.site.home / "lock", lambda: screen.line("cluster", "waits", "another command is at it")):
            if options.command == "up":
                up(host, screen, options.image, options.added)
            else:
                down(host, screen, options.added)
    except Failure as failure:
        screen.failure(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
