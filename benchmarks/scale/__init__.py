"""What many services and many workers cost: the preview of a stack of them, and a gateway's knowledge of its fleet."""
