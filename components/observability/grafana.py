"""Grafana with its data sources and dashboards, all of it provisioned.

What somebody makes by hand in it is gone with the pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_random import RandomPassword

from components.observability import images
from components.observability.dashboards import ALL, Dashboard
from components.observability.workload import (
    ConfigFile,
    Folder,
    Port,
    Probe,
    SecretFile,
    Workload,
    as_yaml,
    deploy,
    url,
)

ADMIN = "admin"
"""The administrator's name: Grafana's own default."""

PASSWORD_KEY = "admin-password"  # noqa: S105 - a key's name
"""Key of the Secret `grafana` under which the administrator's password stands."""

_PORT = 3000
_DATA = "/var/lib/grafana"
_PROVISIONING = "/etc/grafana/provisioning"
_DASHBOARDS = "/etc/grafana/dashboards"
_PASSWORD_FILE = f"/etc/grafana/secrets/{PASSWORD_KEY}"

_PASSWORD_LENGTH = 32

# https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/: GF_<SECTION>_<KEY>
_ENVIRONMENT = {
    "GF_SECURITY_ADMIN_USER": ADMIN,
    # the image's start script reads the file: the password is in no object but the Secret
    "GF_SECURITY_ADMIN_PASSWORD__FILE": _PASSWORD_FILE,
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
    "GF_AUTH_ANONYMOUS_ENABLED": "false",
    "GF_USERS_ALLOW_SIGN_UP": "false",
    # nothing of the cluster is told to anybody, and nothing is fetched at start
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_PLUGINS_PLUGIN_ADMIN_ENABLED": "false",
    # the image's own folder of logs cannot be written
    "GF_PATHS_LOGS": f"{_DATA}/log",
}


class DataSourceOptions(TypedDict, total=False):
    """What a data source's own plugin reads."""

    httpMethod: str
    """GET or POST; long queries fit only into POST."""

    timeInterval: str
    """How often Prometheus scrapes, e.g. "15s": the least that $__rate_interval is made of."""


class DataSource(TypedDict):
    """One entry of a provisioned list of data sources."""

    name: str
    uid: str
    type: str
    access: str
    url: str
    editable: bool
    isDefault: NotRequired[bool]
    jsonData: NotRequired[DataSourceOptions]


class DataSources(TypedDict):
    """https://grafana.com/docs/grafana/latest/administration/provisioning/#data-sources."""

    apiVersion: int
    datasources: list[DataSource]


class ProviderOptions(TypedDict):
    """Where a provider of dashboards finds them."""

    path: str


class DashboardProvider(TypedDict):
    """One entry of a provisioned list of folders with dashboards."""

    name: str
    type: str
    folder: str
    allowUiUpdates: bool
    options: ProviderOptions


class DashboardProviders(TypedDict):
    """https://grafana.com/docs/grafana/latest/administration/provisioning/#dashboards."""

    apiVersion: int
    providers: list[DashboardProvider]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrafanaArgs:
    """What Grafana shows, and to whom."""

    namespace: str
    """Where it runs; a namespace that exists."""

    prometheus_url: str
    """The data source of the dashboards, as a pod reaches it."""

    scrape_interval_s: int = 15
    """How often that Prometheus scrapes, in seconds; a rate needs several values."""

    tracing_url: str | None = None
    """Jaeger's query service as a pod reaches it, a second data source; None = there is none."""

    admin_password: Input[str] | None = None
    """Password of the user `admin`; it is made a secret. None or "" = one that Pulumi makes up and
    keeps."""

    dashboards: tuple[Dashboard, ...] = ALL
    """What is provisioned; the first is the home page."""

    def __post_init__(self) -> None:
        """Refuse dashboards that would replace one another.

        Raises:
            ValueError: Two dashboards have the same uid.
        """
        uids = [dashboard.uid for dashboard in self.dashboards]
        for uid in uids:
            if uids.count(uid) > 1:
                raise ValueError(f"two dashboards have the uid {uid}")


class Grafana(ComponentResource):
    """`service-mesh:observability:Grafana`: one pod that asks Prometheus, and Jaeger if told so.

    Needs its namespace; waits for nothing of what it shows.
    """

    url: str
    """Its address for other pods of the cluster."""

    admin_password: Output[str]
    """Password of the user `admin`, a secret."""

    dashboards: tuple[str, ...]
    """Titles of its dashboards."""

    def __init__(self, name: str, args: GrafanaArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("service-mesh:observability:Grafana", name, {}, opts)
        self.url = url("grafana", args.namespace, _PORT)
        self.dashboards = tuple(dashboard.title for dashboard in args.dashboards)
        if args.admin_password is None or args.admin_password == "":
            self.admin_password = RandomPassword(
                f"{name}-admin-password",
                length=_PASSWORD_LENGTH,
                # it is typed and pasted by people
                special=False,
                opts=ResourceOptions(parent=self),
            ).result
        else:
            self.admin_password = Output.secret(args.admin_password)
        deploy(
            name,
            Workload(
                name="grafana",
                namespace=args.namespace,
                image=images.GRAFANA,
                services={"grafana": (Port(name="http", number=_PORT),)},
                ready=Probe(path="/api/health", port=_PORT),
                env=tuple(_environment(args).items()),
                config=_config(args),
                secrets=(
                    SecretFile(key=PASSWORD_KEY, path=_PASSWORD_FILE, value=self.admin_password),
                ),
                folders=(Folder(name="data", path=_DATA), Folder(name="tmp", path="/tmp")),  # noqa: S108 - the container's
                memory_request_mib=128,
            ),
            self,
        )
        self.register_outputs({"url": self.url})


def data_sources(args: GrafanaArgs) -> DataSources:
    """The provisioned data sources."""
    sources: list[DataSource] = [
        {
            "name": "Prometheus",
            "uid": "prometheus",
            "type": "prometheus",
            "access": "proxy",
            "url": args.prometheus_url,
            "editable": False,
            "isDefault": True,
            "jsonData": {"httpMethod": "POST", "timeInterval": f"{args.scrape_interval_s}s"},
        }
    ]
    if args.tracing_url is not None:
        sources.append(
            {
                "name": "Jaeger",
                "uid": "jaeger",
                "type": "jaeger",
                "access": "proxy",
                "url": args.tracing_url,
                "editable": False,
            }
        )
    return {"apiVersion": 1, "datasources": sources}


def dashboard_providers() -> DashboardProviders:
    """The one folder of dashboards."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "mesh",
                "type": "file",
                "folder": "Mesh",
                "allowUiUpdates": False,
                "options": {"path": _DASHBOARDS},
            }
        ],
    }


def _environment(args: GrafanaArgs) -> dict[str, str]:
    if not args.dashboards:
        return _ENVIRONMENT
    home = f"{_DASHBOARDS}/{args.dashboards[0].uid}.json"
    return {**_ENVIRONMENT, "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": home}


def _config(args: GrafanaArgs) -> tuple[ConfigFile, ...]:
    from components.observability.dashboard_json import render  # noqa: PLC0415 - slow

    return (
        ConfigFile(
            path=f"{_PROVISIONING}/datasources/datasources.yaml", text=as_yaml(data_sources(args))
        ),
        ConfigFile(
            path=f"{_PROVISIONING}/dashboards/providers.yaml", text=as_yaml(dashboard_providers())
        ),
        *(
            ConfigFile(path=f"{_DASHBOARDS}/{dashboard.uid}.json", text=render(dashboard))
            for dashboard in args.dashboards
        ),
    )
