//go:build tools

// Package tools pins h2spec and all that it is built from; go.mod and go.sum say to what.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
