//go:build tools

// Package actionlint names the program that checks the workflows, so that `go mod tidy` keeps its pin.
package actionlint

import _ "github.com/rhysd/actionlint/cmd/actionlint"
