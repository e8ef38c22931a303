"""The lab's kubelet: runs pods as processes, each in its own namespaces, as injected by istiod."""
