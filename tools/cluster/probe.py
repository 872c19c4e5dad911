"""Whether somebody answers on this machine, asked past any proxy."""

import socket
import urllib.error
import urllib.request


def listens(port: int) -> bool:
    """Whether a port of loopback takes connections."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
