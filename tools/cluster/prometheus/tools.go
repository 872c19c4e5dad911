//go:build tools

// Package tools pins what is built from here: Prometheus.
package tools

import _ "github.com/prometheus/prometheus/cmd/prometheus"
