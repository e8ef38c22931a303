"""Is this cluster fit for the mesh, is the mesh well, and what did a destroy leave behind?

Stands alone: no Pulumi, no cluster library, nothing of the project. `python -m doctor --help`.
"""
