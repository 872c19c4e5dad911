//go:build tools

// Package tools pins what is built from here: the servers of external and of resource metrics.
package tools

import (
	_ "sigs.k8s.io/metrics-server/cmd/metrics-server"
	_ "sigs.k8s.io/prometheus-adapter/cmd/adapter"
)
