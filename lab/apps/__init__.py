"""Programs that stand for container images on the lab: Bookinfo's services, an echo, a client."""
