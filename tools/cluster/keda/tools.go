//go:build tools

// Package tools pins what is built from here: KEDA's operator and its server of external metrics.
package tools

import (
	_ "github.com/kedacore/keda/v2/cmd/adapter"
	_ "github.com/kedacore/keda/v2/cmd/operator"
)
