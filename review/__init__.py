"""Shows a reviewer the Kubernetes objects that a preview changes inside Helm releases."""
