"""The embedded lab: a real control plane on this machine, for when there is no cluster."""
