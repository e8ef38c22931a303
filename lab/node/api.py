"""A small asynchronous client of the Kubernetes API: JSON in, JSON out, list and watch."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from lab.cluster import Credentials

Json: TypeAlias = dict[str, Any]
"""A Kubernetes object as the API server sends it."""

_LOG = logging.getLogger("lab.api")
_HTTP_NOT_FOUND = 404
_HTTP_GONE = 410


class ApiError(Exception):
    """The API server refused.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One connection pool to the API server, as an administrator."""

    def __init__(self, credentials: Credentials) -> None:
        tls = ssl.create_default_context(cafile=str(credentials.ca))
        tls.load_cert_chain(credentials.certificate, credentials.key)
        self._session = aiohttp.ClientSession(
            base_url=credentials.server,
            connector=aiohttp.TCPConnector(ssl=tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        """Send one request and return the decoded answer.

        Raises:
            ApiError: the answer is not a success.
        """
        async with self._session.request(
            method,
            path,
            params=query,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": kind, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=30),
        ) as answer:
            text = await answer.text()
            if not answer.ok:
                raise ApiError(answer.status, f"{method} {path}: {answer.status} {text[:500]}")
            decoded: Json = json.loads(text)
            return decoded

    async def find(self, path: str) -> Json | None:
        """The object at this path, or None where there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status == _HTTP_NOT_FOUND:
                return None
            raise

    async def merge(self, path: str, patch: Json) -> Json | None:
        """Apply a merge patch; None when the object is gone."""
        try:
            return await self.request("PATCH", path, patch, kind="application/merge-patch+json")
        except ApiError as error:
            if error.status == _HTTP_NOT_FOUND:
                return None
            raise

    async def follow(self, path: str) -> AsyncIterator[tuple[str, Json]]:
        """Every object of a collection and each later change, for ever.

        Yields (type, object): ADDED, MODIFIED or DELETED. After a broken connection the collection
        is listed anew: an object deleted meanwhile comes as DELETED, the others as MODIFIED.
        """
        known: dict[str, Json] = {}
        while True:
            try:
                listing = await self.request("GET", path)
                items = {item["metadata"]["uid"]: item for item in listing.get("items") or []}
                for uid in known.keys() - items.keys():
                    yield "DELETED", known.pop(uid)
                for uid, item in items.items():
                    kind = "MODIFIED" if uid in known else "ADDED"
                    known[uid] = item
                    yield kind, item
                version = listing["metadata"]["resourceVersion"]
                async for kind, item in self._watch(path, version):
                    uid = item["metadata"]["uid"]
                    if kind == "DELETED":
                        known.pop(uid, None)
                    else:
                        known[uid] = item
                    yield kind, item
            except (TimeoutError, aiohttp.ClientError, ApiError, OSError) as error:
                _LOG.info("watch of %s interrupted (%s), listing again", path, error)
                await asyncio.sleep(0.5)

    async def _watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Json]]:
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._session.get(path, params=query) as answer:
            if not answer.ok:
                raise ApiError(answer.status, await answer.text())
            buffer = b""
            async for chunk in answer.content.iter_any():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(int(event["object"].get("code", _HTTP_GONE)), "watch ended")
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]
