"""Where the lab keeps what it makes: one folder of this checkout, removed by `make lab-down`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONTEXT = "service-mesh-lab"
"""Name of the lab's context in its kubeconfig: never the name of anybody's real cluster."""

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabPaths:
    """Files and folders of one lab."""

    state: Path = ROOT / ".lab"
    """Everything below is inside; gitignored."""

    @property
    def kubeconfig(self) -> Path:
        """What `pulumi`, `kubectl` and `istioctl` use: a loopback port into the lab."""
        return self.state / "kubeconfig"

    @property
    def lock(self) -> Path:
        """Held (flock) by the running lab: the kernel lets go of it however the lab ends."""
        return self.state / "lock"

    @property
    def facts(self) -> Path:
        """JSON written when the lab is ready: process, port, kind of isolation."""
        return self.state / "lab.json"

    @property
    def kwok(self) -> Path:
        """kwokctl's working folder: certificates, component logs."""
        return self.state / "kwok"

    @property
    def logs(self) -> Path:
        """The supervisor's log, and one folder per pod."""
        return self.state / "logs"

    @property
    def log(self) -> Path:
        """The supervisor's own log."""
        return self.logs / "lab.log"

    @property
    def pods(self) -> Path:
        """Root folders of the pods that run as processes."""
        return self.state / "pods"

    @property
    def charts(self) -> Path:
        """Istio's charts as the lab's istiod was built with."""
        return self.state / "charts"

    @property
    def pulumi(self) -> Path:
        """Pulumi's home, state and passphrase for stacks on the lab: worth nothing without it."""
        return self.state / "pulumi"

    @property
    def egress(self) -> Path:
        """Socket of the proxy through which the API server calls webhooks without namespaces."""
        return self.state / "egress.sock"
