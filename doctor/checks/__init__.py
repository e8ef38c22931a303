"""What is checked: one small function each, over what was read, in a table for each part."""

from doctor.checks import cluster, control_plane, crds, data_plane, state, teardown

CHECKS = (
    *cluster.CHECKS,
    *control_plane.CHECKS,
    *data_plane.CHECKS,
    *crds.CHECKS,
    *teardown.CHECKS,
    *state.CHECKS,
)
"""Every check, in the order of the report."""
