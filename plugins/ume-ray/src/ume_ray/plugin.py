"""`ume index … --ray [ADDRESS]`."""

from __future__ import annotations

from ume_core.hookspecs import ClusterSpec, hookimpl


@hookimpl
def ume_clusters() -> list[ClusterSpec]:
    """A Ray cluster, or this machine as one."""
    return [
        ClusterSpec(
            "ray",
            "embed on a Ray cluster (host:port, auto or local; default: a running one, else this "
            "machine)",
            "ume_ray.arguments:arguments",
            "ume_ray.command:run",
            "from a clone: pip install plugins/ume-ray",
        )
    ]
