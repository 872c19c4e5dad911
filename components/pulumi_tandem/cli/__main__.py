"""`python -m pulumi_tandem.cli` is `tandem`."""

from pulumi_tandem.cli import main

main()
