"""Which cluster: found in the kubeconfig, reached, and looked at before anything is registered.

Nothing here is a component. What is wrong comes as one `ClusterError`, in previews too.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from pulumi import RunError
from pulumi_kubernetes import Provider

from components.kinds import ROOT_NAMESPACE, STACK_ANNOTATION, ClusterAccess

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_TIMEOUT_S = 5.0
"""Seconds for one answer of the API server. kubectl itself would wait for 30."""

_PAGE = 500
"""Objects of one answer, so that it comes in time; kubectl's own."""

_OURS = "pulumi-kubernetes"
"""How the names of the managers begin under which the provider writes fields."""

_NOT_KUBERNETES = "something answers there, but not as Kubernetes does"


class ClusterError(RunError):
    """The cluster cannot be used as it is; says which setting mends it.

    A `RunError`: Pulumi prints its message and no traceback.
    """


class Cluster:
    """A cluster that answered. `connect` makes it."""

    def __init__(self, access: ClusterAccess, api: ApiClient) -> None:
        self._access = access
        self._api = api

    def check_control_plane(self, *, stack: str) -> None:
        """Make sure that no Istio of somebody else is installed.

        Args:
            stack: Name of this stack, as written on the namespaces that it creates.

        Raises:
            ClusterError: The control plane's namespace exists and another made it.
        """
        found = self._namespace(ROOT_NAMESPACE)
        if found is None:
            return
        self._refuse_terminating("kubeContext", self._access.context, found)
        if (owner := _owner(found)) != stack:
            raise ClusterError(
                _problem(
                    "kubeContext",
                    self._access.context,
                    f"a cluster without Istio; its namespace {ROOT_NAMESPACE} was made by "
                    f"{owner or 'somebody else'}",
                    "pulumi config set kubeContext NAME (another cluster), or remove that Istio: "
                    f"istioctl uninstall --purge {self._access.kubectl().partition(' ')[2]} && "
                    f"{self._access.kubectl()} delete namespace {ROOT_NAMESPACE}",
                )
            )

    def check_namespace(
        self,
        name: str,
        *,
        adopt: bool,
        stack: str,
        revision: str | None = None,
        revisions: Collection[str] = (),
    ) -> None:
        """Make sure that the mesh namespace can be created, or adopted, as it was asked for.

        Args:
            name: The namespace.
            adopt: Whether it is to be labelled only, and never owned.
            stack: Name of this stack, as written on the namespaces that it creates.
            revision: The istiod, or the tag, by whose name it is to be labelled; None: the default
                istiod.
            revisions: Istiods and tags that the stack has or will have, by whose names it may be
                labelled.

        Raises:
            ClusterError: It exists and another made it; it is to be adopted and does not exist, or
                is this stack's own; another injection label stands on it, or one of somebody else
                that would win over the stack's; it is being deleted.
        """
        kubectl = self._access.kubectl()
        found = self._namespace(name)
        if found is None:
            if adopt:
                raise ClusterError(
                    _problem(
                        "namespace",
                        name,
                        "a namespace that exists, because adoptNamespace is true; this one does "
                        "not",
                        f"pulumi config set adoptNamespace false, or "
                        f"{kubectl} create namespace {name}",
                    )
                )
            return
        self._refuse_terminating("namespace", name, found)
        owner = _owner(found)
        if adopt and owner == stack:
            raise ClusterError(
                _problem(
                    "adoptNamespace",
                    "true",
                    f"false for {name}: this stack made it, and would delete it in order to adopt "
                    "it",
                    "pulumi config set adoptNamespace false",
                )
            )
        if not adopt and owner != stack:
            raise ClusterError(
                _problem(
                    "namespace",
                    name,
                    "a namespace that does not exist yet; this one was made by "
                    f"{owner or 'somebody else'}",
                    "pulumi config set namespace NAME, or pulumi config set adoptNamespace true "
                    f"(labels it only), or {kubectl} delete namespace {name} (with all it holds)",
                )
            )
        self._refuse_other_injection(name, found, revisions)
        if adopt and revision:
            self._refuse_stronger_injection(name, found, revision)

    def check_own_namespace(self, setting: str, name: str, *, stack: str) -> None:
        """Make sure that a namespace that is never adopted can be created.

        Args:
            setting: The setting that names it, for the error's advice.
            name: The namespace.
            stack: Name of this stack, as written on the namespaces that it creates.

        Raises:
            ClusterError: It exists and another made it, or it is being deleted.
        """
        found = self._namespace(name)
        if found is None:
            return
        self._refuse_terminating(setting, name, found)
        if (owner := _owner(found)) != stack:
            raise ClusterError(
                _problem(
                    setting,
                    name,
                    "a namespace that does not exist yet; this one was made by "
                    f"{owner or 'somebody else'}",
                    f"pulumi config set {setting} NAME, or "
                    f"{self._access.kubectl()} delete namespace {name} (with all it holds)",
                )
            )

    def objects(self, *resources: str, namespace: str | None = None) -> list[dict[str, Any]]:
        """All objects of some kinds.

        Args:
            resources: In kubectl's words, `pods` or `deployments.apps`; their API must be v1.
            namespace: Where; None: everywhere.

        Returns:
            The objects as the API server has them; none of a kind that the cluster does not know.

        Raises:
            ClusterError: They may not be read, or the API server does not answer.
        """
        found = []
        where = f"/namespaces/{namespace}" if namespace else ""
        scope = f"-n {namespace}" if namespace else "--all-namespaces"
        for resource in resources:
            name, _, group = resource.partition(".")
            path = f"{f'/apis/{group}' if group else '/api'}/v1{where}/{name}"
            page = f"{path}?limit={_PAGE}"
            while page:
                answer = _get(self._access, self._api, page, may=f"list {resource} {scope}") or {}
                kind = str(answer.get("kind", "")).removesuffix("List")
                said = {"apiVersion": answer.get("apiVersion"), "kind": kind}
                found += [{**said, **item} for item in answer.get("items") or ()]
                more = (answer.get("metadata") or {}).get("continue")
                page = f"{path}?limit={_PAGE}&continue={quote(more, safe='')}" if more else ""
        return found

    def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One ConfigMap; None where there is none.

        Raises:
            ClusterError: It may not be read, or the API server does not answer.
        """
        path, may = f"/api/v1/namespaces/{namespace}/configmaps/{name}", "get configmaps"
        found = _get(self._access, self._api, path, may=f"{may} -n {namespace}")
        return None if found is None else {"apiVersion": "v1", "kind": "ConfigMap", **found}

    def provider(self, name: str) -> Provider:
        """The provider that every resource of the program is given.

        It says no more about this machine than the settings do, so that the state is the same
        whoever runs the program.
        """
        return Provider(
            name,
            context=self._access.context,
            # "" and not None, for which the SDK would put $KUBECONFIG into the state; the provider
            # takes "" for kubectl's own rule, which also knows a list of files
            kubeconfig=self._access.kubeconfig,
        )

    def _namespace(self, name: str) -> dict[str, Any] | None:
        """A namespace's metadata; None where there is none."""
        found = _get(self._access, self._api, f"/api/v1/namespaces/{name}")
        return None if found is None else found["metadata"]

    def _refuse_terminating(self, key: str, value: str, found: Mapping[str, Any]) -> None:
        if "deletionTimestamp" in found:
            raise ClusterError(
                _problem(
                    key,
                    value,
                    f"a namespace that stays; {found['name']} is being deleted since "
                    f"{found['deletionTimestamp']}",
                    f"{self._access.kubectl()} wait --for=delete namespace/{found['name']} "
                    "--timeout=5m, then run this again",
                )
            )

    def _refuse_other_injection(
        self, name: str, found: Mapping[str, Any], revisions: Collection[str]
    ) -> None:
        labels = found.get("labels") or {}
        for label, fine in (("istio.io/rev", revisions), ("istio-injection", ["enabled"])):
            if (value := labels.get(label)) is not None and value not in fine:
                raise ClusterError(
                    _problem(
                        "namespace",
                        name,
                        f"a namespace without another injection label; it has {label}={value}, and "
                        "with two of them nobody can tell whether its pods get a sidecar",
                        f"{self._access.kubectl()} label namespace {name} {label}-, or "
                        "pulumi config set namespace NAME",
                    )
                )

    def _refuse_stronger_injection(
        self, name: str, found: Mapping[str, Any], revision: str
    ) -> None:
        """What others have written stays beside the stack's label, and istiod obeys it."""
        for field in found.get("managedFields") or ():
            labels = (field.get("fieldsV1") or {}).get("f:metadata", {}).get("f:labels", {})
            if "f:istio-injection" in labels and not field["manager"].startswith(_OURS):
                raise ClusterError(
                    _problem(
                        "namespaceRevision",
                        revision,
                        f"empty while {name} has istio-injection, which {field['manager']} wrote: "
                        "with both labels the default istiod injects",
                        f"{self._access.kubectl()} label namespace {name} istio-injection-",
                    )
                )


def connect(access: ClusterAccess) -> Cluster:
    """Find the context in the kubeconfig and ask its API server for its version.

    Args:
        access: The settings kubeconfig and kubeContext.

    Raises:
        ClusterError: No kubeconfig or none that can be read, no context or an unknown one, or no
            answer within 5 s.
    """
    # takes half a second, which neither bad settings nor tests without a cluster should cost
    from kubernetes.client import Configuration  # noqa: PLC0415
    from kubernetes.config import ConfigException, new_client_from_config  # noqa: PLC0415

    names = _contexts(access.kubeconfig)
    if access.context not in names:
        near = difflib.get_close_matches(access.context, names, n=1)
        choice = near[0] if near else names[0] if len(names) == 1 else "NAME"
        raise ClusterError(
            _problem(
                "kubeContext",
                access.context,
                f"a context of {_described(access.kubeconfig)}, which has "
                f"{', '.join(names) or 'none'}; the current context is never taken silently",
                f"pulumi config set kubeContext {shlex.quote(choice)}",
            )
        )
    configuration = Configuration()
    # the client's own three retries would make it 20 s
    configuration.retries = False
    try:
        api = new_client_from_config(  # type: ignore[no-untyped-call]  # its own gap
            config_file=os.pathsep.join(map(str, _files(access.kubeconfig))),
            context=access.context,
            client_configuration=configuration,
        )
    except (ConfigException, OSError, ValueError) as error:
        raise ClusterError(
            _problem(
                "kubeContext",
                access.context,
                f"a context that is complete in {_described(access.kubeconfig)}: {_line(error)}",
                f"{access.kubectl()} config view --minify shows it; then mend the file, or "
                "pulumi config set kubeContext NAME",
            )
        ) from error
    version = _get(access, api, "/version")
    if version is None or "gitVersion" not in version:
        raise _unreachable(access, api, _NOT_KUBERNETES)
    return Cluster(access, api)


def _get(
    access: ClusterAccess, api: ApiClient, path: str, *, may: str = "get namespaces"
) -> dict[str, Any] | None:
    """The API server's answer; None where it says that there is no such thing."""
    from kubernetes.client import ApiException  # noqa: PLC0415 - slow
    from urllib3.exceptions import HTTPError  # noqa: PLC0415 - comes with the client

    try:
        # what CoreV1Api would do, whose import alone takes a second
        response = api.call_api(
            *api.param_serialize("GET", path, auth_settings=["BearerToken"]),
            _request_timeout=_TIMEOUT_S,
        )
        content = response.read()  # type: ignore[no-untyped-call]  # its own gap
    except ApiException as error:
        raise _unreachable(access, api, str(error.reason)) from error
    except (HTTPError, OSError) as error:
        raise _unreachable(access, api, str(error)) from error
    said = f"{response.status} {response.reason}"
    if response.status == HTTPStatus.NOT_FOUND:
        return None
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise ClusterError(
            _problem(
                "kubeContext",
                access.context,
                f"a context that may {may}; {api.configuration.host} says {said}",
                f"log in until this says yes: {access.kubectl()} auth can-i {may}, or "
                "pulumi config set kubeContext NAME",
            )
        )
    if response.status != HTTPStatus.OK:
        raise _unreachable(access, api, said)
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _unreachable(access, api, _NOT_KUBERNETES)
    return answer


def _unreachable(access: ClusterAccess, api: ApiClient, reason: str) -> ClusterError:
    return ClusterError(
        _problem(
            "kubeContext",
            access.context,
            f"a context whose API server answers within {_TIMEOUT_S:.0f} s; "
            f"{api.configuration.host} did not: {_line(reason)}",
            f"start or unblock it until this works: {access.kubectl()} version, or "
            "pulumi config set kubeContext NAME",
        )
    )


def _files(kubeconfig: str) -> list[Path]:
    """The kubeconfig files, as kubectl finds them.

    https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
    """
    if kubeconfig:
        return [Path(kubeconfig).expanduser()]
    listed = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    # a list may name files that are not there, as kubectl allows
    return [file for file in listed or [Path.home() / ".kube" / "config"] if file.exists()]


def _described(kubeconfig: str) -> str:
    return ", ".join(map(str, _files(kubeconfig))) or "the kubeconfig"


def _contexts(kubeconfig: str) -> list[str]:
    """The names of all contexts."""
    files = _files(kubeconfig)
    if not files:
        looked = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ClusterError(
            _problem(
                "kubeconfig",
                kubeconfig,
                f"a file that exists; {looked} does not",
                "pulumi config set kubeconfig PATH",
            )
        )
    return sorted({name for file in files for name in _contexts_of(file)})


def _contexts_of(file: Path) -> Iterable[str]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return [str(context["name"]) for context in content["contexts"] or []]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
        reason = (
            _line(error) if isinstance(error, OSError | yaml.YAMLError) else "no contexts in it"
        )
    raise ClusterError(
        _problem(
            "kubeconfig",
            str(file),
            f"a kubeconfig as kubectl reads it; this is none: {reason}",
            "pulumi config set kubeconfig PATH, or mend the file",
        )
    )


def _owner(found: Mapping[str, Any]) -> str | None:
    return (found.get("annotations") or {}).get(STACK_ANNOTATION)


def _line(reason: object) -> str:
    return " ".join(str(reason).split())


def _problem(key: str, value: str, allowed: str, fix: str) -> str:
    return f"{key} is {json.dumps(value)}\n  allowed: {allowed}\n  fix:     {fix}"
