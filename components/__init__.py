"""The mesh's components: each module makes one of them and knows nothing of the others."""
