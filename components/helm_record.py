"""Helm's own record of a release, where an update was cut off and the record says what is not so.

Helm keeps it as a Secret for each revision. An update that is killed leaves one behind that Pulumi
knows nothing of, and Helm then refuses the next update: "cannot re-use a name that is still in
use", or "another operation is in progress".
"""

from __future__ import annotations

import asyncio

from pulumi import ResourceHook, ResourceHookArgs

from components.kinds import ClusterAccess

_TIMEOUT_S = 15
_PENDING = ("pending-install", "pending-upgrade", "pending-rollback")


def selector(release: str, *, known: bool) -> str:
    """Labels of the Secrets that must go before Helm can do what Pulumi asks for.

    Args:
        release: The release's name.
        known: Whether Pulumi's state has the release. One that it has loses what was never
            finished; one that it does not have loses all, and is installed over what is there.
    """
    everything = f"owner=helm,name={release}"
    return f"{everything},status in ({','.join(_PENDING)})" if known else everything


def repeatable(name: str, access: ClusterAccess) -> ResourceHook:
    """A hook, for before a release's creation and update, that lets Helm go on after a failed one.

    Only the record goes. The objects stay and serve, and Helm takes them back, because they carry
    the release's name. The namespace must be the stack's own, which the program checks first.

    Args:
        name: Name of the hook in Pulumi.
        access: The cluster.
    """

    async def forget(args: ResourceHookArgs) -> None:
        inputs = args.new_inputs or {}
        labels = selector(str(inputs["name"]), known=bool(args.old_inputs))
        # in a thread: the engine's other requests go through this event loop
        await asyncio.to_thread(_delete, access, str(inputs["namespace"]), labels)

    return ResourceHook(name, forget)


def _delete(access: ClusterAccess, namespace: str, labels: str) -> None:
    # only a real update needs it; previews and tests are spared the import
    from kubernetes import config  # noqa: PLC0415

    api = config.new_client_from_config(  # type: ignore[no-untyped-call]  # its own gap
        config_file=access.kubeconfig or None, context=access.context
    )
    # what CoreV1Api would do, whose import alone takes a second
    request = api.param_serialize(
        "DELETE",
        f"/api/v1/namespaces/{namespace}/secrets",
        query_params=[("labelSelector", labels)],
        auth_settings=["BearerToken"],
    )
    response = api.call_api(*request, _request_timeout=_TIMEOUT_S)
    response.read()
    # raises what a refusal is
    api.response_deserialize(response, {})
