"""The `tandem` command."""

from pulumi_tandem.cli.main import main

__all__ = ["main"]
