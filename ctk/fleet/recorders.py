"""What is known of each node's recorder: from its pod, and from what it says in its log."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ctk.record import progressline
from ctk.record.progressline import Going

RecorderState = Literal["starting", "recording", "ended", "fetching", "kept", "failed"]

# These do not mend by waiting.
_HOPELESS = ("ErrImageNeverPull", "InvalidImageName")
# These say only that it goes on.
_USUAL = ("ContainerCreating", "PodInitializing")
_LOG_LINE = re.compile(r"(?P<at>\S+) (?:\S+Z (?P<level>INFO|WARNING|ERROR) )?(?P<text>.*)")


@dataclass(slots=True)
class NodeRecorder:
    """
    One node's recorder.

    `why` is what keeps it from starting, or what it failed of; `problem` what its recording ended
    with, or lost, where there is a file nonetheless.
    """

    node: str
    state: RecorderState = "starting"
    runs: bool = False  # its container does, and it may be heard
    why: str = ""
    problem: str = ""
    going: Going | None = None
    fetched_bytes: int = 0
    path: Path | None = None  # of its file, here
    remarks: list[str] = field(default_factory=list)  # warnings in its log, each once
    read_until: str | None = None  # the time of the last line of its log that was read

    def fail(self, why: str) -> None:
        """Give it up."""
        self.state, self.why = "failed", why

    def record(self) -> None:
        """Say that it does."""
        if self.state == "starting":
            self.state, self.why = "recording", ""

    def look_at(self, pod: Mapping[str, Any] | None) -> None:
        """Take in how its pod is; None where there is none any more."""
        if self.state not in ("starting", "recording", "ended"):
            return
        if pod is None:
            self.fail("its pod was deleted by somebody else")
            return
        found = _condition(pod)
        if found.over:
            self.fail(self.problem or found.why)
        elif self.state == "starting":
            self.runs, self.why = found.runs, found.why

    def listen_to(self, log: str) -> None:
        """Take in lines of its log, each behind the time at which the kubelet got it."""
        for line in log.splitlines():
            match = _LOG_LINE.fullmatch(line)
            # The time that a log is asked from has whole seconds, so lines come again.
            if match is None or (self.read_until is not None and match["at"] <= self.read_until):
                continue
            self.read_until = match["at"]
            self._hear(match["level"] or "", match["text"])

    def unread_since(self) -> str | None:
        """From when on its log is to be read, in whole seconds, as the API takes it."""
        # The time is in the node's zone: 2026-11-24T09:00:00.123456789+01:00.
        return self.read_until and re.sub(r"\.[0-9]+", "", self.read_until)

    def remark(self, text: str) -> None:
        """Keep what a person is to know."""
        if text not in self.remarks:
            self.remarks.append(text)

    def _hear(self, level: str, text: str) -> None:
        going = progressline.read(text)
        if going is not None:
            self.going = going
            self.record()
        elif text.startswith(progressline.ENDED):
            self.problem = text.removeprefix(progressline.ENDED).removeprefix(": ")
            if self.state in ("starting", "recording"):
                self.state, self.why = "ended", ""
        elif level in ("WARNING", "ERROR"):
            self.remark(text)


class _PodCondition(NamedTuple):
    why: str
    runs: bool = False
    over: bool = False


def _condition(pod: Mapping[str, Any]) -> _PodCondition:
    """Read a pod's status (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/)."""
    status = pod.get("status", {})
    containers = status.get("containerStatuses") or [{}]
    container: Mapping[str, Any] = containers[0].get("state") or {}
    ended, waiting = container.get("terminated"), container.get("waiting")
    if status.get("phase") in ("Failed", "Succeeded") or ended is not None:
        return _PodCondition(_of_end(status, ended or {}), over=True)
    if "deletionTimestamp" in pod["metadata"]:
        return _PodCondition("its pod is being deleted by somebody else", over=True)
    if "running" in container:
        return _PodCondition("", runs=True)
    if waiting is None:
        return _PodCondition(_of_scheduling(status))
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    why = "" if reason in _USUAL else _sentence(reason, message)
    return _PodCondition(why, over=reason in _HOPELESS)


def _of_end(status: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    """Say why a pod is over: kubelet's reason (Evicted, ...), else its last line."""
    if status.get("reason"):
        return _sentence(status["reason"], status.get("message", ""))
    lines = [each.strip() for each in str(ended.get("message", "")).splitlines() if each.strip()]
    said = next((each for each in lines if each.startswith("Error: ")), lines[-1] if lines else "")
    code = ended.get("exitCode")
    reason = ended.get("reason", "")
    how = f"its recorder ended with exit code {code}" if code is not None else "its pod ended"
    if reason not in ("", "Error", "Completed"):
        how += f" ({reason})"
    return f"{how}: {said.removeprefix('Error: ')}" if said else how


def _of_scheduling(status: Mapping[str, Any]) -> str:
    for each in status.get("conditions") or ():
        if each.get("status") == "False" and each.get("message"):
            return _sentence(each.get("reason", ""), each["message"])
    return ""


def not_ready(node: Mapping[str, Any]) -> str | None:
    """Say why a node takes no pods; None where it does."""
    for each in node.get("status", {}).get("conditions") or ():
        if each.get("type") == "Ready":
            if each.get("status") == "True":
                return None
            return f"it is not ready: {_sentence(each.get('reason', ''), each.get('message', ''))}"
    return "it is not ready: its kubelet has said nothing"


def _sentence(reason: str, message: str) -> str:
    return ": ".join(" ".join(each.split()) for each in (reason, message) if each)


def reasons(recorders: Iterable[NodeRecorder]) -> str:
    """Say why recorders failed."""
    return by_reason((each.node, each.why) for each in recorders if each.state == "failed")


def by_reason(pairs: Iterable[tuple[str, str]]) -> str:
    """Say why nodes failed, each reason once."""
    nodes: dict[str, list[str]] = {}
    for node, why in pairs:
        nodes.setdefault(why, []).append(node)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in nodes.items())
