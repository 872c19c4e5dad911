"""The estimator against measured rows, beside aiconfigurator."""
