"""When a certificate ends, without a library for it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_LONG = 0x80
"""A length from here on says how many bytes hold it."""

_END = "-----END CERTIFICATE-----"


def blocks(pem: str) -> list[str]:
    """The certificates of a bundle, each as PEM without what stands between them."""
    return [
        "-----BEGIN" + part.partition("-----BEGIN")[2] + _END
        for part in pem.split(_END)
        if "-----BEGIN" in part
    ]


def not_after(pem: str) -> datetime:
    """The end of one certificate's validity.

    Raises:
        ValueError: It is no certificate.
    """
    try:
        certificate = _fields(ssl.PEM_cert_to_DER_cert(pem))[0][1]
        parts = _fields(_fields(certificate)[0][1])
        # version (may be left out), serial number, algorithm, issuer, validity
        validity = parts[4 if parts[0][0] == _VERSION else 3]
        kind, text = _fields(validity[1])[1]
        form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[kind]
        return datetime.strptime(text.decode(), form).replace(tzinfo=UTC)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        message = "this is no X.509 certificate"
        raise ValueError(message) from error


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of DER, each with its tag (X.690, 8.1)."""
    found, at = [], 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size >= _LONG:
            count = size - _LONG
            size, at = int.from_bytes(data[at : at + count]), at + count
        found.append((tag, data[at : at + size]))
        at += size
    return found
