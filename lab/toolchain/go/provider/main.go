// Pulumi's Kubernetes provider as its own module builds it. The release archives embed a schema
// too, for code generation and YAML programs; a Python program never asks for it.
package main

import "github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"

func main() { provider.Serve("kubernetes", "4.18.1", []byte("{}"), []byte("{}")) }
