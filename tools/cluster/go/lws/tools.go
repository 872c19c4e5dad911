//go:build tools

// Package tools pins what is built from here: the controller of LeaderWorkerSet.
package tools

import _ "sigs.k8s.io/lws/cmd"
