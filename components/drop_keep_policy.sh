#!/bin/sh
# Helm post-renderer: manifests in, manifests out, without `helm.sh/resource-policy: keep`.
# That annotation makes Helm leave Istio's CRDs behind on uninstall; stacks that set
# keepCrds: false want them gone.
exec sed -E '/^[[:space:]]*["'\'']?helm\.sh\/resource-policy["'\'']?:[[:space:]]*["'\'']?keep["'\'']?[[:space:]]*$/d'
