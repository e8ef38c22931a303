"""Runs a Pulumi program without the CLI, a plugin or a cluster, and writes down its objects."""
