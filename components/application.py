"""An application: rows of a typed table, turned into ServiceAccounts, Services and Deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Resource, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment, DeploymentSpecArgs
from pulumi_kubernetes.core.v1 import (
    CapabilitiesArgs,
    ContainerArgs,
    ContainerPortArgs,
    EmptyDirVolumeSourceArgs,
    EnvVarArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    ProbeArgs,
    ResourceRequirementsArgs,
    SeccompProfileArgs,
    SecurityContextArgs,
    Service,
    ServiceAccount,
    ServicePortArgs,
    ServiceSpecArgs,
    TCPSocketActionArgs,
    VolumeArgs,
    VolumeMountArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs

from components.kinds import child, metadata

# What the provider would wait for, endpoints, its Deployment's readiness says already; the wait
# costs ten seconds when all is well and ten minutes when no pod comes.
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}

_READINESS_PERIOD_S = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One version of one service: a Deployment. Versions of a service share all else."""

    app: str
    """Name of the service, of its container and of the label `app`; a DNS label."""

    version: str
    """Label `version`, and the end of the Deployment's name, e.g. "v1"."""

    image: str
    """Container image with its tag. It must run as a user that is not root."""

    port: int
    """The port the container listens on, and the Service's, 1 to 65535."""

    protocol: str = "http"
    """Name of the Service's port, from which Istio reads the protocol (`http`, `grpc`, `tcp`)."""

    memory_request_mib: int = 64
    """Memory that is reserved, in MiB."""

    memory_limit_mib: int = 256
    """Memory above which the container is killed, in MiB."""

    env: tuple[tuple[str, str], ...] = ()
    """Environment of the container."""

    scratch: tuple[tuple[str, str], ...] = ()
    """Empty volumes, as (volume, path inside the container)."""

    pod_annotations: tuple[tuple[str, str], ...] = ()
    """Annotations of the pods."""

    user: int | None = None
    """Number of the user it runs as; None: the image's, if that says a number and not a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplicationArgs:
    """The table and where it goes."""

    namespace: str
    """A namespace of the mesh."""

    workloads: tuple[Workload, ...]
    """The table."""

    account_prefix: str = ""
    """What stands before the service's name in the name of its ServiceAccount."""

    replicas: int = 1
    """Pods of each version, 1 or more."""

    pods_after: Sequence[Resource] = ()
    """What must be ready before the first pod is born: istiod, or it has no sidecar for life."""

    def __post_init__(self) -> None:
        """Refuse a table that does not make one Service of each name.

        Raises:
            ValueError: A version is repeated, versions of a service differ in port or protocol, or
                there is to be no pod.
        """
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}; expected 1 or more")
        seen: dict[str, Workload] = {}
        versions: set[tuple[str, str]] = set()
        for row in self.workloads:
            if (row.app, row.version) in versions:
                raise ValueError(f"{row.app} {row.version} stands twice in the table")
            versions.add((row.app, row.version))
            first = seen.setdefault(row.app, row)
            if (row.port, row.protocol) != (first.port, first.protocol):
                raise ValueError(f"the versions of {row.app} differ in port or protocol")


class Application(ComponentResource):
    """`service-mesh:application:Application`: the objects of a table of workloads.

    Accounts and Services need their namespace only; pods wait for `pods_after` too.
    """

    services: dict[str, int]
    """Port of each Service, by name."""

    deployments: list[Deployment]
    """One for each row."""

    def __init__(
        self, name: str, args: ApplicationArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("service-mesh:application:Application", name, {}, opts)
        self.services = {row.app: row.port for row in args.workloads}
        accounts: dict[str, ServiceAccount] = {}
        for row in {row.app: row for row in args.workloads}.values():
            accounts[row.app] = ServiceAccount(
                f"{name}-{row.app}-account",
                metadata=metadata(
                    f"{args.account_prefix}{row.app}",
                    namespace=args.namespace,
                    labels={"account": row.app},
                ),
                opts=child(self),
            )
            Service(
                f"{name}-{row.app}-service",
                metadata=metadata(
                    row.app,
                    namespace=args.namespace,
                    labels={"app": row.app, "service": row.app},
                    annotations=_SKIP_AWAIT,
                ),
                spec=ServiceSpecArgs(
                    ports=[ServicePortArgs(port=row.port, name=row.protocol)],
                    selector={"app": row.app},
                ),
                opts=child(self),
            )
        self.deployments = [
            Deployment(
                f"{name}-{row.app}-{row.version}",
                metadata=metadata(
                    f"{row.app}-{row.version}",
                    namespace=args.namespace,
                    labels={"app": row.app, "version": row.version},
                ),
                spec=_deployment(
                    row, account=f"{args.account_prefix}{row.app}", replicas=args.replicas
                ),
                opts=child(self, after=[accounts[row.app], *args.pods_after]),
            )
            for row in args.workloads
        ]
        self.register_outputs({"services": self.services})


def _deployment(row: Workload, *, account: str, replicas: int) -> DeploymentSpecArgs:
    labels = {"app": row.app, "version": row.version}
    container = ContainerArgs(
        name=row.app,
        image=row.image,
        image_pull_policy="IfNotPresent",
        env=[EnvVarArgs(name=key, value=value) for key, value in row.env] or None,
        ports=[ContainerPortArgs(container_port=row.port)],
        # any protocol has a listening socket; Istio lets its agent ask, so STRICT is no obstacle
        readiness_probe=ProbeArgs(
            tcp_socket=TCPSocketActionArgs(port=row.port), period_seconds=_READINESS_PERIOD_S
        ),
        volume_mounts=[VolumeMountArgs(name=v, mount_path=path) for v, path in row.scratch] or None,
        resources=ResourceRequirementsArgs(
            # no limit on CPU: it would slow down starts and protect nobody
            requests={"cpu": "10m", "memory": f"{row.memory_request_mib}Mi"},
            limits={"memory": f"{row.memory_limit_mib}Mi"},
        ),
        # Pod Security's "restricted", less what the images were never said to bear: their root
        # filesystem stays writable.
        security_context=SecurityContextArgs(
            allow_privilege_escalation=False,
            capabilities=CapabilitiesArgs(drop=["ALL"]),
            run_as_non_root=True,
            # of a name kubelet cannot tell whether it is root, and starts nothing
            run_as_user=row.user,
            seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
        ),
    )
    return DeploymentSpecArgs(
        replicas=replicas,
        selector=LabelSelectorArgs(match_labels=labels),
        template=PodTemplateSpecArgs(
            metadata=ObjectMetaArgs(labels=labels, annotations=dict(row.pod_annotations) or None),
            spec=PodSpecArgs(
                service_account_name=account,
                containers=[container],
                volumes=[
                    VolumeArgs(name=v, empty_dir=EmptyDirVolumeSourceArgs()) for v, _ in row.scratch
                ]
                or None,
            ),
        ),
    )
