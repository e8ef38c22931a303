//go:build tools

// Package prometheus names the programs that are built here, so that `go mod tidy` keeps their pin.
package prometheus

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
