//go:build tools

// Package tools pins what is built from here: KWOK's controller.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"
