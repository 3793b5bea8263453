"""What a recording takes up of what this node's last one left: live connections, and names."""

from ctk.conntrack.baseline import Baseline
from ctk.conntrack.connections import Connections
from ctk.kube.endpoints import Endpoints
from ctk.record import host
from ctk.record.plan import Plan
from ctk.store.write import Writer
from ctk.timespan import SECOND

OWNERS_KEPT_NS = 600 * SECOND  # after their end: nothing asks about connections that old
_UNKNOWN_KEPT_NS = 3600 * SECOND  # before the last commit: what is told later names it


def connections(writer: Writer, live: Connections, plan: Plan, started_ns: int) -> Baseline:
    """Restore the connections that were kept; gives how first sights count."""
    previous = writer.previous
    if previous is None or not plan.live:
        return Baseline.first_start(started_ns)
    if previous.boot_id != host.boot_id():
        return Baseline.after_reboot(started_ns, previous)
    if previous.ended_ns is None or previous.kept_nothing:
        return Baseline.after_crash(started_ns, previous)
    live.restore(writer.load_connections(), by_port=plan.aggregation == "connections")
    return Baseline.after_clean_stop(started_ns, previous)


def names(writer: Writer, endpoints: Endpoints, plan: Plan) -> None:
    """Tell who owned addresses when the file was last written: they may own them still."""
    previous = writer.previous
    if previous is None or not plan.live:
        return
    if previous.told_ns is not None:
        since_ns = previous.told_ns - OWNERS_KEPT_NS
        known = writer.known_objects(since_ns)
        endpoints.recall(known, previous.told_ns, since_ns=since_ns, watched_ns=previous.watched_ns)
    unknown = writer.unknown_endpoints(previous.committed_ns - _UNKNOWN_KEPT_NS)
    endpoints.recall_unknown(unknown)
