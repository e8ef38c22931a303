"""Is this connection really mTLS? The answer from objects alone, no cluster needed.

`evaluate(objects, mesh)` returns every row and every warning. `World.parse`, `rows`, `summary`
and `warnings` of `tlscheck.evaluate` are for meshes too big to print row by row.
"""

from __future__ import annotations

from tlscheck.evaluate import Report, Summary, evaluate
from tlscheck.model import MeshConfig
from tlscheck.rows import Client, Effective, Row, Server, Warning
from tlscheck.world import World

__all__ = [
    "Client",
    "Effective",
    "MeshConfig",
    "Report",
    "Row",
    "Server",
    "Summary",
    "Warning",
    "World",
    "evaluate",
]
