"""A Kubernetes of one node as processes of this machine: what tests run on where no other cluster is named."""
