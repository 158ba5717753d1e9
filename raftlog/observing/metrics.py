"""A node in Prometheus's words. Every name that is exposed stands in this file; docs/reference/metrics.md lists them.

Made when somebody asks, from the node's status and its measures: nothing is counted twice, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)

from raftlog.runtime.measures import BUCKETS
from raftlog.snapshots.tally import OUTCOMES

# "connections" and "frames": reason -> how many.
Refused = Mapping[str, Mapping[str, int]]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ROLES: Final = ("follower", "pre_candidate", "candidate", "leader")

# Name -> (what it says, key of the status).
_GAUGES: Final = {
    "raftlog_term": ("The current term.", "current_term"),
    "raftlog_commit_index": ("Last index known to be committed.", "commit_index"),
    "raftlog_applied_index": ("Last index whose effects are in this node's database.", "last_applied"),
    "raftlog_last_index": ("Last index of this node's log.", "last_index"),
    "raftlog_stable_index": ("Last index that this node's disk has.", "stable_index"),
    "raftlog_first_index": ("First index that this node's log still holds.", "first_index"),
    "raftlog_waiting_proposals": ("Proposals of this host without an outcome.", "waiting_proposals"),
    "raftlog_uptime_seconds": ("Seconds since the node's start.", "uptime"),
}
_STAGES: Final = {
    "queue": "proposal to service thread",
    "sync": "append to this leader's disk",
    "replicate": "append to the disks of enough others",
    "commit": "append to commit",
    "apply": "commit to this node's database",
    "read": "a linearizable read's confirmation",
    "total": "proposal to outcome",
}


def exposition(
    status: Mapping[str, Any], stages: Mapping[str, Any], counts: Mapping[str, int], refusals: Refused
) -> str:
    """The text that Prometheus scrapes. Any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(lambda: families(status, stages, counts, refusals)))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


def families(
    status: Mapping[str, Any], stages: Mapping[str, Any], counts: Mapping[str, int], refusals: Refused
) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "raftlog_node",
        "Who this is.",
        {name: str(status[name]) for name in ("node_id", "cluster", "cluster_id", "address", "version")},
    )
    role = status["role"]
    yield StateSetMetricFamily("raftlog_role", "What this node is now.", {name: name == role for name in ROLES})
    for name, (text, key) in _GAUGES.items():
        yield GaugeMetricFamily(name, text, status[key])
    yield GaugeMetricFamily("raftlog_healthy", "1 where the node has no problem.", int(status["healthy"]))
    yield GaugeMetricFamily("raftlog_has_leader", "1 where a leader is known.", int(bool(status["leader_id"])))
    yield GaugeMetricFamily(
        "raftlog_apply_backlog", "Committed entries not applied here.", status["commit_index"] - status["last_applied"]
    )
    yield from _members(status)
    yield from _histograms(stages)
    yield from _threads(status)
    yield from _disk(status)
    yield from _counters(status, counts, refusals)


def _members(status: Mapping[str, Any]) -> Iterator[Metric]:
    voters = sum(member["voter"] for member in status["members"].values())
    yield GaugeMetricFamily("raftlog_voters", "Voters of the configuration in force.", voters)
    peers = {peer: each for peer, each in status["members"].items() if peer != status["node_id"]}
    connected = GaugeMetricFamily("raftlog_peer_connected", "1 where the peer is connected.", labels=["peer"])
    lag = GaugeMetricFamily("raftlog_peer_lag", "Entries that the peer lacks, as its leader knows.", labels=["peer"])
    contact = GaugeMetricFamily(
        "raftlog_peer_last_contact_seconds", "Seconds since the peer was heard from.", labels=["peer"]
    )
    trip = GaugeMetricFamily(
        "raftlog_peer_round_trip_seconds", "From a message of the leader to the answer, smoothed.", labels=["peer"]
    )
    for peer, each in peers.items():
        connected.add_metric([peer], int(each["connected"]))
        if each["lag"] is not None:
            lag.add_metric([peer], each["lag"])
        if each["last_contact"] is not None:
            contact.add_metric([peer], each["last_contact"])
        if each["round_trip"] is not None:
            trip.add_metric([peer], each["round_trip"])
    yield from (connected, lag, contact, trip)


def _histograms(stages: Mapping[str, Any]) -> Iterator[Metric]:
    text = "; ".join(f"{stage}: {words}" for stage, words in _STAGES.items())
    family = HistogramMetricFamily("raftlog_stage_seconds", f"Time of each stage ({text}).", labels=["stage"])
    for stage, data in stages.items():
        buckets, so_far = [], 0
        for bound, count in zip((*BUCKETS, float("inf")), data["counts"], strict=True):
            so_far += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), so_far))
        family.add_metric([stage], buckets, data["total"])
    yield family


def _threads(status: Mapping[str, Any]) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "raftlog_thread_busy_seconds", "Seconds in which a thread was not waiting.", labels=["thread"]
    )
    prefix = f"raftlog-{status['node_id']}-"
    for name, thread in status["threads"].items():
        if "busy" in thread:
            family.add_metric([name.removeprefix(prefix)], thread["busy"])
    yield family


def _disk(status: Mapping[str, Any]) -> Iterator[Metric]:
    disk = status["disk"]
    yield GaugeMetricFamily("raftlog_log_bytes", "Bytes that the node's folder takes.", disk["taken"])
    yield GaugeMetricFamily("raftlog_disk_free_bytes", "Bytes that are left beside it.", disk["free"])


def _counters(status: Mapping[str, Any], counts: Mapping[str, int], refusals: Refused) -> Iterator[Metric]:
    outcomes = CounterMetricFamily("raftlog_outcomes", "Client entries applied, by how they ended.", labels=["outcome"])
    outcomes.add_metric(["applied"], counts["applied"] - counts["failed"])
    outcomes.add_metric(["failed"], counts["failed"])
    yield outcomes
    yield CounterMetricFamily("raftlog_leader_changes", "Changes of leader or term seen.", counts["leader_changes"])
    yield CounterMetricFamily(
        "raftlog_protocol_violations", "Messages that no correct server sends.", status["protocol_violations"]
    )
    refused = CounterMetricFamily("raftlog_refused_connections", "Connections refused, by reason.", labels=["reason"])
    frames = CounterMetricFamily("raftlog_refused_frames", "Frames refused, by reason.", labels=["reason"])
    for family, by_reason in ((refused, refusals["connections"]), (frames, refusals["frames"])):
        for reason, count in by_reason.items():
            family.add_metric([reason], count)
        yield family
    yield GaugeMetricFamily("raftlog_sessions", "Client sessions that are open.", counts["sessions"])
    yield from _snapshots(status.get("snapshots"))


def _snapshots(snapshots: Mapping[str, Any] | None) -> Iterator[Metric]:
    if snapshots is None:
        return
    pulling = snapshots["pulling"] or {"bytes": 0, "total": 0}
    progress = GaugeMetricFamily("raftlog_image_bytes", "Of the image that is being pulled.", labels=["what"])
    progress.add_metric(["received"], pulling["bytes"])
    progress.add_metric(["total"], pulling["total"])
    yield progress
    yield GaugeMetricFamily("raftlog_images", "Images kept for peers.", len(snapshots["serving"]["images"]))
    steps = CounterMetricFamily(
        "raftlog_image_steps", "Images made, pulled and installed, by how it went.", labels=["step", "outcome"]
    )
    size = CounterMetricFamily("raftlog_image_step_bytes", "Bytes made, received and installed.", labels=["step"])
    time = CounterMetricFamily("raftlog_image_step_seconds", "Seconds that it took, failures too.", labels=["step"])
    for step, counts in snapshots["since_start"].items():
        for outcome in OUTCOMES:
            steps.add_metric([step, outcome], counts[outcome])
        size.add_metric([step], counts["bytes"])
        time.add_metric([step], counts["seconds"])
    yield from (steps, size, time)
