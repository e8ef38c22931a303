"""One program of this package as Kubernetes runs it: a Deployment and what belongs to it.

Everything here is Pod Security's "restricted" (https://kubernetes.io/docs/concepts/security/
pod-security-standards/) with a root filesystem that cannot be written, and none of it is in the
mesh: its pods have no sidecar, so they may start before istiod and outlive it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml
from pulumi import ComponentResource, Input, Output, Resource
from pulumi_kubernetes.apps.v1 import Deployment, DeploymentSpecArgs, DeploymentStrategyArgs
from pulumi_kubernetes.core.v1 import (
    CapabilitiesArgs,
    ConfigMap,
    ConfigMapVolumeSourceArgs,
    ContainerArgs,
    ContainerPortArgs,
    EmptyDirVolumeSourceArgs,
    EnvVarArgs,
    HTTPGetActionArgs,
    KeyToPathArgs,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpecArgs,
    PersistentVolumeClaimVolumeSourceArgs,
    PodSecurityContextArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    ProbeArgs,
    ResourceRequirementsArgs,
    SeccompProfileArgs,
    Secret,
    SecretVolumeSourceArgs,
    SecurityContextArgs,
    Service,
    ServiceAccount,
    ServicePortArgs,
    ServiceSpecArgs,
    VolumeArgs,
    VolumeMountArgs,
    VolumeResourceRequirementsArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs
from pulumi_kubernetes.rbac.v1 import (
    ClusterRole,
    ClusterRoleBinding,
    PolicyRuleArgs,
    RoleRefArgs,
    SubjectArgs,
)
from pulumi_random import RandomString

from components.kinds import child, metadata
from components.observability.images import Image

# Services: the Deployment's readiness says it already. Claims: with a storage class that waits for
# the first pod they are bound only after what waits for them.
_SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}

_READ_ONLY = 0o440
"""Mode of secret files: the pod's group may read them, nobody else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One port of a Service."""

    name: str
    """Its name, which begins with the protocol, `http-` or `grpc-`: Istio's proxies read it."""

    number: int
    """What clients call, 1 to 65535."""

    target: int | None = None
    """What the container listens on, above 1023; None = the same number."""

    @property
    def container_port(self) -> int:
        """What the container listens on."""
        return self.number if self.target is None else self.target


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """An HTTP path that answers 200 to 399 when all is well."""

    path: str
    """With its leading slash."""

    port: int
    """A port of the container."""

    period_s: int = 10
    """Seconds between two questions; 10 is Kubernetes' default too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """A file of the container from the ConfigMap. Its last name is the ConfigMap's key."""

    path: str
    """Absolute path; everything in one folder comes from the ConfigMap, the folder is read-only."""

    text: str
    """What is in it. Never a secret: it is shown in previews."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretFile:
    """A file of the container from the Secret, readable by the container's group only."""

    key: str
    """The Secret's key."""

    path: str
    """Absolute path; its folder is read-only and holds no other files but of the Secret."""

    value: Input[str]
    """What is in it; it is made a Pulumi secret whatever it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder that the program may write."""

    name: str
    """Name of the volume, a DNS label."""

    path: str
    """Absolute path."""

    storage: str | None = None
    """Size as a Kubernetes quantity, e.g. "10Gi": a PersistentVolumeClaim of the cluster's default
    storage class. None = an emptyDir, which is gone with the pod."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What the program may do through the Kubernetes API, in every namespace."""

    groups: tuple[str, ...]
    """API groups; "" is the core group."""

    resources: tuple[str, ...]
    """Plural names."""

    verbs: tuple[str, ...] = ("get", "list", "watch")
    """Reading is the default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A program and all it needs. Values stand for one container in one pod."""

    name: str
    """Name of all its objects in Kubernetes, of its container and of the label `app`."""

    namespace: str
    """Where it runs. Cluster-wide objects carry it in their names."""

    image: Image
    """What runs, and as whom."""

    services: Mapping[str, tuple[Port, ...]]
    """Ports of each Service (type ClusterIP), by the Service's name; no two ports of one name."""

    ready: Probe
    """Whether requests may come."""

    alive: Probe | None = None
    """Whether the container need not be killed; None = it is never."""

    command: tuple[str, ...] = ()
    """What runs in the image; empty = the image's own entry point."""

    args: tuple[str, ...] = ()
    """Its arguments."""

    env: tuple[tuple[str, str], ...] = ()
    """Environment. Never a secret: secrets are files."""

    config: tuple[ConfigFile, ...] = ()
    """Its configuration; a change restarts the pod."""

    secrets: tuple[SecretFile, ...] = ()
    """Its secrets; a change restarts the pod."""

    folders: tuple[Folder, ...] = ()
    """What it may write; all else is read-only."""

    rules: tuple[Rule, ...] = ()
    """What it may do in the Kubernetes API; with none it has no credentials for it at all."""

    pod_annotations: tuple[tuple[str, str], ...] = ()
    """More annotations of the pod, such as prometheus.io/scrape."""

    memory_request_mib: int = 64
    """Memory that is reserved, in MiB."""

    memory_limit_mib: int = 512
    """Memory above which the container is killed, in MiB."""

    cpu_request_m: int = 10
    """CPU that is reserved, in thousandths of a core."""

    grace_period_s: int = 30
    """Seconds to end in; 30 is Kubernetes' default too."""

    def __post_init__(self) -> None:
        """Refuse files that would hide one another.

        Raises:
            ValueError: Two files of the ConfigMap or of the Secret have one key, or a folder is
                asked for twice.
        """
        keys = [PurePosixPath(file.path).name for file in self.config]
        for kind, names in (
            ("configuration file", keys),
            ("secret", [secret.key for secret in self.secrets]),
            ("folder", [*map(str, _folders(self)), *(folder.path for folder in self.folders)]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{self.name}: {kind} {name} is there twice")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What `deploy` made that others may want."""

    deployment: Deployment
    """Ready when its pod is."""

    services: Mapping[str, Service]
    """By name in Kubernetes."""


def as_yaml(document: Mapping[str, object]) -> str:
    """A configuration document as text, its keys in the order in which they were written."""
    return yaml.safe_dump(dict(document), sort_keys=False, width=100)


def url(service: str, namespace: str, port: int) -> str:
    """The address of a Service for other pods of the cluster."""
    host = f"{service}.{namespace}.svc.cluster.local"
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"  # noqa: PLR2004 http's own


def deploy(
    name: str, workload: Workload, parent: ComponentResource, *, after: Sequence[Resource] = ()
) -> Deployed:
    """Make a workload's objects as children of a component.

    Args:
        name: What the children's names in Pulumi begin with: the component's own.
        workload: What is wanted.
        parent: The component.
        after: What must be there before the pod, beside the component's own dependencies.
    """

    def meta(kind_annotations: Mapping[str, str] | None = None) -> ObjectMetaArgs:
        return metadata(
            workload.name,
            namespace=workload.namespace,
            labels=_labels(workload),
            annotations=kind_annotations,
        )

    needed: list[Resource] = [
        ServiceAccount(
            f"{name}-account",
            metadata=meta(),
            # the pod says for itself whether it wants a token
            automount_service_account_token=False,
            opts=child(parent),
        )
    ]
    if workload.rules:
        needed.append(_grant(name, workload, parent))
    annotations = dict(workload.pod_annotations)
    if workload.config:
        data = {PurePosixPath(file.path).name: file.text for file in workload.config}
        needed.append(ConfigMap(f"{name}-config", metadata=meta(), data=data, opts=child(parent)))
        annotations["checksum/config"] = hashlib.sha256(
            json.dumps(data, sort_keys=True).encode()
        ).hexdigest()
    secret_version: Mapping[str, Input[str]] = {}
    if workload.secrets:
        values = {file.key: Output.secret(file.value) for file in workload.secrets}
        needed.append(
            Secret(f"{name}-secrets", metadata=meta(), string_data=values, opts=child(parent))
        )
        # No digest of the secrets: who may read Deployments could try passwords against it.
        version = RandomString(
            f"{name}-secrets-version",
            length=10,
            special=False,
            keepers=values,
            opts=child(parent),
        )
        secret_version = {"service-mesh/secrets-version": version.result}
    needed += [
        PersistentVolumeClaim(
            f"{name}-{folder.name}",
            metadata=metadata(
                f"{workload.name}-{folder.name}",
                namespace=workload.namespace,
                labels=_labels(workload),
                annotations=_SKIP_AWAIT,
            ),
            spec=PersistentVolumeClaimSpecArgs(
                access_modes=["ReadWriteOnce"],
                resources=VolumeResourceRequirementsArgs(requests={"storage": folder.storage}),
            ),
            opts=child(parent),
        )
        for folder in workload.folders
        if folder.storage is not None
    ]
    services = {
        service: Service(
            f"{name}-service" if service == workload.name else f"{name}-service-{service}",
            metadata=metadata(
                service,
                namespace=workload.namespace,
                labels=_labels(workload),
                annotations=_SKIP_AWAIT,
            ),
            spec=ServiceSpecArgs(
                type="ClusterIP",
                ports=[
                    ServicePortArgs(
                        name=port.name, port=port.number, target_port=port.container_port
                    )
                    for port in ports
                ],
                selector=_labels(workload),
            ),
            opts=child(parent),
        )
        for service, ports in workload.services.items()
    }
    deployment = Deployment(
        f"{name}-deployment",
        metadata=meta(),
        spec=DeploymentSpecArgs(
            replicas=1,
            selector=LabelSelectorArgs(match_labels=_labels(workload)),
            strategy=_strategy(workload),
            template=PodTemplateSpecArgs(
                metadata=ObjectMetaArgs(
                    labels={**_labels(workload), "sidecar.istio.io/inject": "false"},
                    annotations={**annotations, **secret_version} or None,
                ),
                spec=_pod(workload),
            ),
        ),
        opts=child(parent, after=[*needed, *after]),
    )
    return Deployed(deployment=deployment, services=services)


def _labels(workload: Workload) -> dict[str, str]:
    return {"app": workload.name}


def _grant(name: str, workload: Workload, parent: ComponentResource) -> ClusterRoleBinding:
    # cluster-wide names are everybody's: another Prometheus may be there
    cluster_wide = metadata(f"{workload.name}-{workload.namespace}", labels=_labels(workload))
    role = ClusterRole(
        f"{name}-role",
        metadata=cluster_wide,
        rules=[
            PolicyRuleArgs(
                api_groups=list(rule.groups),
                resources=list(rule.resources),
                verbs=list(rule.verbs),
            )
            for rule in workload.rules
        ],
        opts=child(parent),
    )
    return ClusterRoleBinding(
        f"{name}-role-binding",
        metadata=cluster_wide,
        role_ref=RoleRefArgs(
            api_group="rbac.authorization.k8s.io",
            kind="ClusterRole",
            name=f"{workload.name}-{workload.namespace}",
        ),
        subjects=[
            SubjectArgs(kind="ServiceAccount", name=workload.name, namespace=workload.namespace)
        ],
        opts=child(parent, after=[role]),
    )


def _strategy(workload: Workload) -> DeploymentStrategyArgs:
    # a volume that one node may mount cannot be shared by the old pod and the new one
    kept = any(folder.storage is not None for folder in workload.folders)
    return DeploymentStrategyArgs(type="Recreate" if kept else "RollingUpdate")


def _folders(workload: Workload) -> list[PurePosixPath]:
    """The folders that are made of files of the ConfigMap or the Secret, each once."""
    config = {PurePosixPath(file.path).parent: None for file in workload.config}
    secrets = {PurePosixPath(file.path).parent: None for file in workload.secrets}
    return [*config, *secrets]


def _pod(workload: Workload) -> PodSpecArgs:
    volumes: list[VolumeArgs] = []
    mounts: list[VolumeMountArgs] = []
    for index, folder in enumerate(_folders(workload)):
        volume = f"files-{index}"
        items = [
            KeyToPathArgs(key=PurePosixPath(file.path).name, path=PurePosixPath(file.path).name)
            for file in workload.config
            if PurePosixPath(file.path).parent == folder
        ]
        secret_items = [
            KeyToPathArgs(key=file.key, path=PurePosixPath(file.path).name)
            for file in workload.secrets
            if PurePosixPath(file.path).parent == folder
        ]
        volumes.append(
            VolumeArgs(
                name=volume,
                config_map=ConfigMapVolumeSourceArgs(name=workload.name, items=items),
            )
            if items
            else VolumeArgs(
                name=volume,
                secret=SecretVolumeSourceArgs(
                    secret_name=workload.name, items=secret_items, default_mode=_READ_ONLY
                ),
            )
        )
        mounts.append(VolumeMountArgs(name=volume, mount_path=str(folder), read_only=True))
    for own in workload.folders:
        volumes.append(
            VolumeArgs(name=own.name, empty_dir=EmptyDirVolumeSourceArgs())
            if own.storage is None
            else VolumeArgs(
                name=own.name,
                persistent_volume_claim=PersistentVolumeClaimVolumeSourceArgs(
                    claim_name=f"{workload.name}-{own.name}"
                ),
            )
        )
        mounts.append(VolumeMountArgs(name=own.name, mount_path=own.path))
    return PodSpecArgs(
        service_account_name=workload.name,
        automount_service_account_token=bool(workload.rules),
        # variables named after every Service of the namespace are read as settings by some programs
        enable_service_links=False,
        termination_grace_period_seconds=workload.grace_period_s,
        security_context=PodSecurityContextArgs(
            run_as_non_root=True,
            run_as_user=workload.image.user,
            run_as_group=workload.image.user,
            fs_group=workload.image.user,
            seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
        ),
        containers=[_container(workload, mounts)],
        volumes=volumes or None,
    )


def _container(workload: Workload, mounts: Sequence[VolumeMountArgs]) -> ContainerArgs:
    ports = {
        port.container_port: port.name for ports in workload.services.values() for port in ports
    }
    return ContainerArgs(
        name=workload.name,
        image=workload.image.reference,
        image_pull_policy="IfNotPresent",
        command=list(workload.command) or None,
        args=list(workload.args) or None,
        env=[EnvVarArgs(name=key, value=value) for key, value in workload.env] or None,
        ports=[ContainerPortArgs(container_port=number) for number in ports],
        readiness_probe=_probe(workload.ready),
        liveness_probe=None if workload.alive is None else _probe(workload.alive),
        volume_mounts=list(mounts) or None,
        resources=ResourceRequirementsArgs(
            # no limit on CPU: it would slow down starts and protect nobody
            requests={
                "cpu": f"{workload.cpu_request_m}m",
                "memory": f"{workload.memory_request_mib}Mi",
            },
            limits={"memory": f"{workload.memory_limit_mib}Mi"},
        ),
        security_context=SecurityContextArgs(
            allow_privilege_escalation=False,
            capabilities=CapabilitiesArgs(drop=["ALL"]),
            read_only_root_filesystem=True,
            run_as_non_root=True,
            seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
        ),
        termination_message_policy="FallbackToLogsOnError",
    )


def _probe(probe: Probe) -> ProbeArgs:
    return ProbeArgs(
        http_get=HTTPGetActionArgs(path=probe.path, port=probe.port), period_seconds=probe.period_s
    )
