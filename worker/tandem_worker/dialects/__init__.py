"""One module per engine's wire protocol of the hand-off; everything an engine says on the wire is known here."""
