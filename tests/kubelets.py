"""
A cluster that pods run in, for tests: the tests' API server, and a kubelet a node.

It makes and deletes namespaces, accounts, roles and pods as a real server does: bodies are held to
Kubernetes' OpenAPI, a namespace goes in its own time with all that is in it, what names it as its
owner follows. A kubelet really runs what the pod says, as a process in a folder that stands for the
container's file system; `exec` comes over a WebSocket whose frames are made here, by hand.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openapi
from apiserver import RESOURCES, ApiServer, Fault, Handler, Json, now, status

NAMESPACED = ("pods", "serviceaccounts")
_PATH = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/(?P<resource>pods|serviceaccounts|events)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<part>log|exec))?)?"
    r"|(?:/api/v1|/apis/rbac\.authorization\.k8s\.io/v1)"
    r"/(?P<whole>namespaces|clusterroles|clusterrolebindings)(?:/(?P<called>[^/]+))?"
)
FOLDER = "/var/lib/ctk"


class Cluster(ApiServer):
    """
    The server and its nodes.

    `denied` has rights, such as "create pods". `deletes_after_s` is how long a namespace is
    Terminating; None is for ever.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder
        self.kubelets: dict[str, Kubelet] = {}
        self.protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
        self.spoken: list[str] = []  # of them, by each exec
        self.executed: list[tuple[str, str]] = []  # node and command
        self.deletes_after_s: float | None = 0.1
        self.refuses_pods = ""  # what admission says of a pod
        self.warnings: dict[str, list[Json]] = {}  # events by the pod they are about
        self.went: list[str] = []  # objects that were deleted by a request

    def add_node(
        self, name: str, *options: str, ready: bool = True, labels: Json | None = None
    ) -> "Kubelet":
        """Add a node, whose recorder is run with these options, too."""
        says = {"type": "Ready", "status": "True" if ready else "False"}
        if not ready:
            says |= {"reason": "KubeletNotReady", "message": "container runtime is down"}
        node = {
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", **(labels or {})}},
            "status": {"conditions": [says]},
        }
        self.put(node)
        self.kubelets[name] = Kubelet(self, name, options)
        return self.kubelets[name]

    def made(self) -> list[str]:
        """Name all objects that somebody made and nobody has deleted."""
        with self._changed:
            return sorted(
                f"{resource}/{name}"
                for resource in ("namespaces", *NAMESPACED, "clusterroles", "clusterrolebindings")
                for _, name in self._objects[resource]
            )

    def clear(self) -> None:
        """Forget all that was made."""
        with self._changed:
            for resource in ("namespaces", *NAMESPACED, "clusterroles", "clusterrolebindings"):
                self._objects[resource].clear()

    def stop(self) -> None:
        """End the server, and what runs on the nodes."""
        super().stop()
        for kubelet in self.kubelets.values():
            kubelet.kill()

    # Requests.

    def answers(self, handler: Handler, method: str, path: str) -> bool:
        """Answer what concerns objects that are made, and pods that run."""
        match = _PATH.fullmatch(path)
        if match is None or path == "/api/v1/namespaces/kube-system":
            return False
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        resource = match["resource"] or match["whole"]
        key = (match["namespace"] or "", match["name"] or match["called"] or "")
        part = match["part"] or ""
        asked = f"{resource}/{part}" if part else resource
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if key[1] else "list"}[method]
        if part == "exec":
            verb = "create"  # as servers ask since 1.35
        if part == "exec" and "command=--digest" not in handler.path:
            asked = "pods/exec to end"  # and not to fetch
        fault = self.fault_of(asked if part else f"{verb} {resource}", False)
        if fault is not None and fault.status:
            handler.answer(fault.status, status(fault.status, "Failure", "as the test wants"), {})
        elif fault is not None and fault.hang:
            handler.hang()
        elif self.token and handler.token() != self.token:
            handler.answer(401, status(401, "Unauthorized", "Unauthorized"), {})
        elif f"{verb} {asked.removesuffix(' to end')}" in self.denied:
            handler.answer(403, _forbidden(verb, asked, key), {})
        elif part == "log":
            self._log(handler, key)
        elif part == "exec":
            self._exec(handler, key, fault)
        else:
            if method == "POST":
                code, answer = self._create(resource, key[0], handler, body)
            elif method == "DELETE":
                code, answer = self._delete(resource, key, body)
            elif resource == "events":
                code, answer = self._warnings(handler)
            elif key[1]:
                code, answer = self._read(resource, key)
            else:
                code, answer = self._list(resource, key[0])
            if fault is not None and fault.half:  # done, and the answer is lost
                handler.close_connection = True
                handler.connection.close()
                return True
            handler.answer(code, answer, {})
        return True

    def _read(self, resource: str, key: tuple[str, str]) -> tuple[int, Json]:
        with self._changed:
            found = self._objects[resource].get(key)
            return (200, found) if found else (404, _not_found(resource, key[1]))

    def _warnings(self, handler: Handler) -> tuple[int, Json]:
        query = parse_qs(urlsplit(handler.path).query)
        name = query["fieldSelector"][0].removeprefix("involvedObject.name=")
        assert name.endswith(",type=Warning")
        items = self.warnings.get(name.removesuffix(",type=Warning"), [])
        return 200, {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": items}

    def _list(self, resource: str, namespace: str) -> tuple[int, Json]:
        code, page = self.page(resource, {})
        page["items"] = [
            e for e in page["items"] if e["metadata"].get("namespace", "") == namespace
        ]
        return code, page

    def _create(  # noqa: PLR0911 - a line a refusal
        self, resource: str, namespace: str, handler: Handler, body: bytes
    ) -> tuple[int, Json]:
        if handler.headers.get("Content-Type") != "application/json":
            return 415, status(415, "UnsupportedMediaType", "the body is no JSON")
        each = json.loads(body)
        if RESOURCES.get(each.get("kind")) != resource or "apiVersion" not in each:
            return 400, status(400, "BadRequest", f"{resource} are of another kind")
        if bad := openapi.faults(each, openapi.MODELS[each["kind"]]):
            return 422, status(422, "Invalid", "; ".join(bad))
        name = each["metadata"]["name"]
        if each["metadata"].get("namespace", namespace) != namespace:
            return 400, status(400, "BadRequest", "the namespace is not that of the path")
        with self._changed:
            if namespace and ("", namespace) not in self._objects["namespaces"]:
                return 404, _not_found("namespaces", namespace)
            if (namespace, name) in self._objects[resource]:
                return 409, status(409, "AlreadyExists", f'{resource} "{name}" already exists')
            if resource == "pods":
                account = (namespace, each["spec"]["serviceAccountName"])
                if account not in self._objects["serviceaccounts"]:
                    return 403, status(403, "Forbidden", f"no service account {account[1]}")
                if self.refuses_pods:
                    message = f'pods "{name}" is forbidden: {self.refuses_pods}'
                    return 403, status(403, "Forbidden", message)
                each["status"] = {"phase": "Pending"}
            if namespace:
                each["metadata"]["namespace"] = namespace
            stored = self.put(each)
        if resource == "pods":
            self.kubelets[each["spec"]["nodeName"]].run(stored)
        return 201, stored

    def _delete(self, resource: str, key: tuple[str, str], body: bytes) -> tuple[int, Json]:
        options = json.loads(body or b"{}")
        if options and (bad := openapi.faults(options, "V1DeleteOptions")):
            return 422, status(422, "Invalid", "; ".join(bad))
        with self._changed:
            found = self._objects[resource].get(key)
            if found is None:
                return 404, _not_found(resource, key[1])
            self.went.append(f"{resource}/{key[1]}")
            if resource == "namespaces":
                if "deletionTimestamp" in found["metadata"]:
                    return 409, status(409, "Conflict", "the system is ensuring all is removed")
                found = self._mark(found, status={"phase": "Terminating"})
                threading.Thread(target=self._terminate, args=(found,), daemon=True).start()
            elif resource == "pods":
                self._end_pod(found, options.get("gracePeriodSeconds"))
            else:
                self.delete(found)
        return 200, found

    def _mark(self, each: Json, **fields: Any) -> Json:
        meta = {**each["metadata"], "deletionTimestamp": now()}
        return self.put({**each, **fields, "metadata": meta})

    def _terminate(self, namespace: Json) -> None:
        """Delete what is in a namespace, then it, then what it owns."""
        name = namespace["metadata"]["name"]
        time.sleep(0.02)
        if self.deletes_after_s is None:
            return
        with self._changed:
            for resource in NAMESPACED:
                for (of, _), each in list(self._objects[resource].items()):
                    if of == name and resource == "pods":
                        self._end_pod(each, None)
                    elif of == name:
                        self.delete(each)
        while any(of == name for of, _ in list(self._objects["pods"])):
            time.sleep(0.02)
        time.sleep(self.deletes_after_s)
        with self._changed:
            self.delete(namespace)
            for resource in ("clusterroles", "clusterrolebindings"):
                for each in list(self._objects[resource].values()):
                    owners = each["metadata"].get("ownerReferences", ())
                    if any(owner["uid"] == namespace["metadata"]["uid"] for owner in owners):
                        self.delete(each)

    def _end_pod(self, pod: Json, grace_s: int | None) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            pod = self._mark(pod)
        kubelet = self.kubelets[pod["spec"]["nodeName"]]
        if grace_s == 0:
            self.delete(pod)
        elif not kubelet.dead:
            threading.Thread(target=kubelet.terminate, args=(pod,), daemon=True).start()

    def delete(self, each: Json) -> None:
        """Delete an object; one that is gone already is gone."""
        with suppress(KeyError):
            super().delete(each)

    def _log(self, handler: Handler, key: tuple[str, str]) -> None:
        code, pod = self._read("pods", key)
        if code != 200:
            handler.answer(code, pod, {})
            return
        kubelet = self.kubelets[pod["spec"]["nodeName"]]
        query = {
            name: values[-1] for name, values in parse_qs(urlsplit(handler.path).query).items()
        }
        assert query["container"] == pod["spec"]["containers"][0]["name"]
        since = datetime.fromisoformat(query.get("sinceTime", "2000-01-01T00:00:00Z"))
        told = [each for each in kubelet.log if datetime.fromisoformat(each[0]) >= since]
        text = "".join(f"{at} {line}\n" for at, line in told).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _exec(self, handler: Handler, key: tuple[str, str], fault: Fault | None) -> None:
        code, pod = self._read("pods", key)
        if code != 200:
            handler.answer(code, pod, {})
            return
        kubelet = self.kubelets[pod["spec"]["nodeName"]]
        if kubelet.process is None or kubelet.process.poll() is not None:
            handler.answer(500, status(500, "InternalError", "container not found"), {})
            return
        query = parse_qs(urlsplit(handler.path).query)
        offered = handler.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
        spoken = next(each for each in self.protocols if each in offered)
        self.spoken.append(spoken)
        self.executed.append((pod["spec"]["nodeName"], " ".join(query["command"])))
        key_hash = hashlib.sha1(
            (handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
        )
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        handler.send_header("Sec-WebSocket-Accept", base64.b64encode(key_hash.digest()).decode())
        handler.send_header("Sec-WebSocket-Protocol", spoken)
        handler.end_headers()
        handler.close_connection = True
        assert (query["stdout"], query["stderr"]) == (["true"], ["true"])
        Channels(handler, fault).serve(kubelet.started(query["command"], pod))


class Channels:
    """The server's end of one WebSocket."""

    def __init__(self, handler: Handler, fault: Fault | None) -> None:
        self._handler, self._fault = handler, fault
        self._sending = threading.Lock()
        self.pings = 0

    def serve(self, process: "subprocess.Popen[bytes]") -> None:
        """Send what a process prints, and how it ends."""
        assert process.stdout is not None
        assert process.stderr is not None
        for channel in (0, 1, 2, 3):  # kubelet opens each with an empty message
            self._send(bytes([channel]))
        listens = threading.Thread(target=self._listen, daemon=True)
        listens.start()
        errors = threading.Thread(target=self._copy, args=(2, process.stderr), daemon=True)
        errors.start()
        cut = self._copy(1, process.stdout)
        if cut:
            process.kill()
        errors.join()
        code = process.wait()
        process.stdout.close()
        process.stderr.close()
        if cut:
            self._handler.connection.shutdown(socket.SHUT_RDWR)
            return
        said: Json = {"metadata": {}, "status": "Success"}
        if code:
            said = {
                "metadata": {},
                "status": "Failure",
                "message": f"command terminated with non-zero exit code: {code}",
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
            }
        text = json.dumps(said).encode()
        self._send(b"\x03" + text[:10], opcode=2, last=False)  # a message in two frames
        self._send(text[10:], opcode=0)
        self._send(struct.pack("!H", 1000), opcode=8)
        listens.join(2)

    def _copy(self, channel: int, stream: Any) -> bool:
        sent = 0
        while chunk := stream.read1(32 << 10):
            if self._fault is not None and self._fault.spoiled and channel == 1 and not sent:
                chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
            self._send(bytes([channel]) + chunk)
            sent += len(chunk)
            if self._fault is not None and self._fault.half and channel == 1:
                return True
        return False

    def _send(self, payload: bytes, opcode: int = 2, *, last: bool = True) -> None:
        size = len(payload)
        head = bytes([(0x80 if last else 0) | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 1 << 16:
            head += struct.pack("!BH", 126, size)
        else:
            head += struct.pack("!BQ", 127, size)
        with self._sending, suppress(OSError):
            self._handler.wfile.write(head + payload)
            self._handler.wfile.flush()

    def _listen(self) -> None:
        """Answer pings, until the client closes."""
        read = self._handler.rfile.read
        with suppress(OSError, ValueError):
            while head := read(2):
                assert head[1] & 0x80, "a client masks its frames"
                size = head[1] & 0x7F
                assert size < 126
                mask, payload = read(4), read(size)
                plain = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
                if head[0] & 0xF == 9:
                    self.pings += 1
                    self._send(plain, opcode=10)
                elif head[0] & 0xF == 8:
                    return


class Kubelet:
    """
    A node that runs one pod.

    `waits` keeps its container from starting, for a reason and with a message. `runs` is a command
    in place of the pod's. `dead` never says that a pod has ended.
    """

    def __init__(self, api: Cluster, node: str, options: Sequence[str]) -> None:
        self._api, self.node, self._options = api, node, options
        self.before: Sequence[str] = ()  # each command, such as: ip netns exec NAME
        self.waits: tuple[str, str] | None = None
        self.dead = False
        self.runs: Sequence[str] = ()  # in place of what the pod says
        self.zone = timezone(timedelta(hours=1))
        self.holds: Path | None = None  # the file that this has recorded
        self.log: list[tuple[str, str]] = []
        self.process: subprocess.Popen[str] | None = None
        self.folder = api.folder / node
        self.pod: Json = {}
        self._running: threading.Thread | None = None
        self._evicted = False

    def run(self, pod: Json) -> None:
        """Start its container."""
        self.pod, self.log = pod, []
        if self.waits is not None:
            reason, message = self.waits
            state = {"waiting": {"reason": reason, "message": message}}
            self._say("Pending", state)
            return
        self._running = threading.Thread(target=self._run, args=(pod,), daemon=True)
        self._running.start()

    def _run(self, pod: Json) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        if self.holds is not None:
            shutil.copy(self.holds, self.folder / f"{self.node}.db")
        command = self.runs or ("ctk", *pod["spec"]["containers"][0]["args"], *self._options)
        self.process = subprocess.Popen(
            self._here(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
        )
        self._say("Running", {"running": {"startedAt": now()}})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            at = datetime.now(self.zone)
            zone = f"{at:%z}"
            stamp = f"{at:%Y-%m-%dT%H:%M:%S.%f}000{zone[:3]}:{zone[3:]}"
            self.log.append((stamp, line.rstrip("\n")))
        code = self.process.wait()
        self.process.stdout.close()
        said = "\n".join(line for _, line in self.log[-80:]) if code else ""
        ended: Json = {"exitCode": code, "reason": "Error" if code else "Completed"}
        if said:
            ended["message"] = said
        if not self._evicted:
            self._say("Failed" if code else "Succeeded", {"terminated": ended})

    def started(self, command: Sequence[str], pod: Json) -> "subprocess.Popen[bytes]":
        """Start a command beside the container's."""
        return subprocess.Popen(
            self._here(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
        )

    def terminate(self, pod: Json) -> None:
        """End the container, within its grace; then the pod is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()
        self._api.delete(pod)

    def evict(self, message: str) -> None:
        """End the pod as a kubelet does that runs out of room."""
        self._evicted = True
        self.kill()
        self._say("Failed", {}, reason="Evicted", message=message)

    def kill(self) -> None:
        """End what runs."""
        if self.process is not None:
            self.process.kill()
        if self._running is not None:
            self._running.join(10)

    def _here(self, command: Sequence[str]) -> list[str]:
        words = [word.replace(FOLDER, str(self.folder)) for word in command]
        if words[0] == "ctk":
            words[:1] = [sys.executable, "-m", "ctk"]
        return [*self.before, *words]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"NODE_NAME": self.node, "TMPDIR": str(self.folder / "tmp")}

    def _say(self, phase: str, state: Json, **more: str) -> None:
        with self._api._changed:
            meta = self.pod["metadata"]
            now_stored = self._api._objects["pods"].get((meta["namespace"], meta["name"]))
            if now_stored is None or now_stored["metadata"]["uid"] != meta["uid"]:
                return
            told = {"phase": phase, "containerStatuses": [{"name": "ctk", "state": state}], **more}
            self._api.put({**now_stored, "status": told})


def _forbidden(verb: str, resource: str, key: tuple[str, str]) -> Json:
    where = f'in the namespace "{key[0]}"' if key[0] else "at the cluster scope"
    return status(
        403,
        "Forbidden",
        f'{resource} is forbidden: User "test" cannot {verb} resource "{resource}" {where}',
    )


def _not_found(resource: str, name: str) -> Json:
    return status(404, "NotFound", f'{resource} "{name}" not found')


def until(check: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    """Wait until something is so."""
    until_s = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until_s, f"{what} did not come"
        time.sleep(0.02)
