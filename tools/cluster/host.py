"""What parts of the cluster are started and ended with."""

from dataclasses import dataclass

from cluster.api import Api
from cluster.place import Site
from cluster.processes import Processes
from steps.frame import Place, Run


@dataclass(frozen=True)
class Host:
    """This machine, on which everything of the cluster is a process."""

    place: Place
    site: Site
    processes: Processes
    run: Run
    address: str
    """Its own, which both nodes have."""

    @property
    def api(self) -> Api:
        """The API server, asked as its administrator."""
        return Api(self.site)
