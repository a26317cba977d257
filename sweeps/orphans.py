"""What lost slots leave behind in Ray: placement groups that nobody will give back.

Ray Train gives a group back when its workers have come up and end. Where their process group cannot be made (a host
that the others cannot reach), the controller ends without doing so, and what the slot held stays taken until the
job's end: on a cluster with room for one slot no other could ever start. Ray 2.60 tells who made a group only in
the table of its own.
"""

from __future__ import annotations

from typing import Any


def give_orphans_back() -> int:
    """Remove every placement group of this job whose maker, an actor, is dead; how many there were."""
    import ray
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    groups: Any = gcs_pb2.PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
    job = ray.get_runtime_context().get_job_id()
    orphans = [
        group
        for group in map(groups.FromString, _table())
        if group.creator_actor_dead
        and not ray.ActorID(group.creator_actor_id).is_nil()  # a driver's own count as those of a dead actor
        and not group.is_detached
        and group.creator_job_id.hex() == job
        and group.state != groups.REMOVED
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(orphans)


def _table() -> list[bytes]:
    from ray._private.state import state

    accessor: Any = state._connect_and_get_accessor()
    return list(accessor.get_placement_group_table())
