"""
An HTTP server that behaves like a Kubernetes API server, for tests and by hand.

It serves the four resources that ctk reads, and the namespace that identifies a cluster: lists in
pages with `continue` tokens, watches from a version with bookmarks, history that can be compacted
(410, in both its forms), bearer tokens, rights per resource, TLS; and it fails on demand. Objects
are JSON as the API writes them.

By hand: `python tests/apiserver.py --objects FILE... --kubeconfig OUT` serves until interrupted.
Each line on stdin is then a change to make, as a watch would tell it:
{"type": "ADDED" | "MODIFIED" | "DELETED", "object": {...}}.
"""

import argparse
import base64
import gzip
import json
import signal
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

PATHS = {
    "/api/v1/pods": "pods",
    "/api/v1/services": "services",
    "/apis/discovery.k8s.io/v1/endpointslices": "endpointslices",
    "/api/v1/nodes": "nodes",
}
CLUSTER_PATH = "/api/v1/namespaces/kube-system"
CLUSTER_UID = "1ee2c1a5-7b1c-4a3e-9d53-6a4dcb1bd1c0"
KINDS = {
    "pods": ("Pod", "v1"),
    "services": ("Service", "v1"),
    "endpointslices": ("EndpointSlice", "discovery.k8s.io/v1"),
    "nodes": ("Node", "v1"),
    # Made and deleted through tests/kubelets.py only.
    "namespaces": ("Namespace", "v1"),
    "serviceaccounts": ("ServiceAccount", "v1"),
    "clusterroles": ("ClusterRole", "rbac.authorization.k8s.io/v1"),
    "clusterrolebindings": ("ClusterRoleBinding", "rbac.authorization.k8s.io/v1"),
}
RESOURCES = {kind: resource for resource, (kind, _) in KINDS.items()}
GONE = Path(__file__).parent.parent / "fixtures" / "kube" / "watch.pods.gone.jsonl"
_COMPRESSED_FROM_BYTES = 128 << 10  # as a real server does


@dataclass(frozen=True)
class Fault:
    """
    What to do to a request instead of answering it.

    `status` answers with it; `half` sends half a line or list and closes; `hang` sends nothing
    more; `gone_inside` is a 410 in a 200 stream; `spoiled` changes a byte of what a command prints.
    """

    status: int = 0
    retry_after: int | None = None
    half: bool = False
    hang: bool = False
    gone_inside: bool = False
    spoiled: bool = False


@dataclass(frozen=True)
class Request:
    """A request as the tests look back on it."""

    resource: str
    query: dict[str, str]
    status: int

    @property
    def watching(self) -> bool:
        return self.query.get("watch") in ("1", "true")


class ApiServer:
    """
    The server and the cluster it tells of.

    An authority without keyUsage signs its certificate. `mutual` asks for a client certificate, for
    which its own will do. `bookmark_s` is how often a watch gets one.
    `stop` and `start` may come again; the port stays.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        mutual: bool = False,
        token: str | None = None,
        bookmark_s: float = 60.0,
    ) -> None:
        self.token = token
        self.denied: set[str] = set()
        self.bookmark_s = bookmark_s
        self.requests: list[Request] = []
        self.pages_from_cache = True  # a limit counts with resourceVersion=0 too
        self._objects: dict[str, dict[tuple[str, str], Json]] = {name: {} for name in KINDS}
        self._events: list[tuple[int, str, str, Json]] = []  # version, resource, type, object
        self._version = 0
        self._compacted = 0
        self._changed = threading.Condition()
        self._faults: list[tuple[str, bool | None, Fault]] = []
        self._port = 0
        self._certificates = _certificates() if tls or mutual else None
        self._mutual = mutual
        self._http: _Http | None = None
        self._running: threading.Thread | None = None

    # What happens in the cluster.

    def load(self, paths: Iterable[Path]) -> None:
        """Take the objects of lists, and the events of watches, in order."""
        for path in paths:
            if path.suffix == ".jsonl":
                for line in path.read_text().splitlines():
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        self.tell(event)
                continue
            raw = json.loads(path.read_text())
            for item in raw.get("items", [raw]):
                self.put(item, raw["kind"].removesuffix("List"))

    def tell(self, event: Json) -> None:
        """Make a change as a watch tells it."""
        if event["type"] == "DELETED":
            self.delete(event["object"])
        else:
            self.put(event["object"])

    def put(self, each: Json, kind: str | None = None) -> Json:
        """Add or modify an object; gives it as stored, with its uid, version and creation."""
        kind = each.get("kind", kind)
        assert kind is not None
        resource = RESOURCES[kind]
        meta = each["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        with self._changed:
            old = self._objects[resource].get(key)
            self._version += 1
            stored = {
                **each,
                "kind": kind,
                "apiVersion": KINDS[resource][1],
                "metadata": {
                    "uid": old["metadata"]["uid"] if old else str(uuid.uuid4()),
                    "creationTimestamp": old["metadata"]["creationTimestamp"] if old else now(),
                    **meta,
                    "resourceVersion": str(self._version),
                },
            }
            self._objects[resource][key] = stored
            self._tell(resource, "MODIFIED" if old else "ADDED", stored)
        return stored

    def delete(self, each: Json) -> None:
        """Delete an object, by its kind, namespace and name."""
        resource, meta = RESOURCES[each["kind"]], each["metadata"]
        with self._changed:
            old = self._objects[resource].pop((meta.get("namespace", ""), meta["name"]))
            self._version += 1
            last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self._version)}}
            self._tell(resource, "DELETED", last)

    def compact(self) -> None:
        """Forget what happened: a watch from before now is told 410."""
        with self._changed:
            self._version += 1
            self._compacted = self._version

    def _tell(self, resource: str, kind: str, each: Json) -> None:
        self._events.append((self._version, resource, kind, each))
        self._changed.notify_all()

    # What goes wrong.

    def fail(self, fault: Fault, resource: str = "", *, watching: bool | None = None) -> None:
        """Let the next request (of a resource, a watch or a list) meet a fault."""
        with self._changed:
            self._faults.append((resource, watching, fault))

    def fault_of(self, resource: str, watching: bool) -> Fault | None:
        """Take the fault that a request is to meet."""
        with self._changed:
            for each in self._faults:
                if each[0] in ("", resource) and each[1] in (None, watching):
                    self._faults.remove(each)
                    return each[2]
        return None

    # Serving.

    def start(self) -> "ApiServer":
        """Listen, on the same port as before."""
        self._http = _Http(("127.0.0.1", self._port), self)
        if self._certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with _files(*self._certificates) as (authority, cert, key):
                context.load_cert_chain(cert, key)
                if self._mutual:
                    context.verify_mode = ssl.CERT_REQUIRED
                    context.load_verify_locations(authority)
            # The handshake belongs to the thread of the connection, not to the listener.
            self._http.socket = context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._port = self._http.server_address[1]
        self._running = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="apiserver", daemon=True
        )
        self._running.start()
        return self

    def stop(self) -> None:
        """Stop listening and cut every connection."""
        http, self._http = self._http, None
        if http is not None:
            http.going_on = False
            http.shutdown()
            http.cut()
            with self._changed:
                self._changed.notify_all()
            http.server_close()

    def cut(self) -> None:
        """Break every open connection, and go on listening."""
        if self._http is not None:
            self._http.cut()

    def __enter__(self) -> "ApiServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def authority(self) -> bytes:
        """The authority that signed its certificate, as PEM."""
        assert self._certificates is not None
        return self._certificates[0]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http{'s' if self._certificates else ''}://127.0.0.1:{self._port}"

    def kubeconfig(self, path: Path, *, trusted: bool = True, insecure: bool = False) -> Path:
        """Write a kubeconfig for it, for `kubectl` and `ctk --kubeconfig` alike."""
        cluster: Json = {"server": self.url}
        if insecure:
            cluster["insecure-skip-tls-verify"] = True
        elif self._certificates is not None and trusted:
            cluster["certificate-authority-data"] = base64.b64encode(self._certificates[0]).decode()
        user = {"token": self.token} if self.token else {}
        if self._mutual and self._certificates is not None:
            certificate, key = (base64.b64encode(each).decode() for each in self._certificates[1:])
            user = {"client-certificate-data": certificate, "client-key-data": key}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(config))
        return path

    # Answers.

    def answers(self, handler: "Handler", method: str, path: str) -> bool:
        """Answer what a server of more than lists and watches does; False leaves it to others."""
        return False

    def page(self, resource: str, query: dict[str, str]) -> tuple[int, Json]:
        """One page of a list."""
        with self._changed:
            kind, api_version = KINDS[resource]
            version, after = self._version, ("", "")
            if "continue" in query:
                token = json.loads(base64.b64decode(query["continue"]))
                version, after = token["v"], tuple(token["after"])
                if version < self._compacted:
                    return 410, status(410, "Expired", "The provided continue parameter is too old")
            items = [
                each
                for key, each in sorted(self._objects[resource].items())
                if key > after and _selected(each, query)
            ]
            limit = int(query.get("limit", "0"))
            if query.get("resourceVersion") == "0" and not self.pages_from_cache:
                limit = 0
            meta: Json = {"resourceVersion": str(version)}
            if limit and len(items) > limit:
                last = items[limit - 1]["metadata"]
                token = {"v": version, "after": [last.get("namespace", ""), last["name"]]}
                meta["continue"] = base64.b64encode(json.dumps(token).encode()).decode()
                meta["remainingItemCount"] = len(items) - limit
                items = items[:limit]
            # The items of a list carry neither kind nor version.
            bare = [{k: v for k, v in i.items() if k not in ("kind", "apiVersion")} for i in items]
            return 200, {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": meta,
                "items": bare,
            }

    def expired(self, version: int) -> bool:
        """Whether a watch from this version misses something that was compacted."""
        with self._changed:
            return 0 < version < self._compacted

    def follow(
        self, resource: str, query: dict[str, str], going_on: Callable[[], bool]
    ) -> Iterator[Json]:
        """The events of a watch, with bookmarks, until its timeout."""
        lasts_s = float(query.get("timeoutSeconds", "1800"))
        until = time.monotonic() + lasts_s
        # A real server sends one 2 s before the end, too.
        first_s = min(self.bookmark_s, lasts_s - 2) if lasts_s > 2 else self.bookmark_s
        bookmark_at = time.monotonic() + first_s
        with self._changed:
            version = int(query.get("resourceVersion") or 0) or self._version
            seen = sum(1 for event in self._events if event[0] <= version)
        while time.monotonic() < until and going_on():
            with self._changed:
                if seen == len(self._events):
                    wait_s = min(until, bookmark_at) - time.monotonic()
                    self._changed.wait(min(max(wait_s, 0.0), 0.5))
                new = self._events[seen:]
                seen += len(new)
            for at, of, kind, each in new:
                version = at
                if of == resource and _selected(each, query):
                    yield {"type": kind, "object": each}
            if time.monotonic() >= bookmark_at:
                bookmark_at += self.bookmark_s
                kind, api_version = KINDS[resource]
                meta = {"resourceVersion": str(version)}
                each = {"kind": kind, "apiVersion": api_version, "metadata": meta}
                yield {"type": "BOOKMARK", "object": each}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    # Tests stop it while watches are open; `cut` ends those.
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], api: ApiServer) -> None:
        self.api = api
        self.going_on = True
        self._open: set[Any] = set()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every open connection as a killed server does."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or refuses the certificate, is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_POST(self) -> None:
        self._other("POST")

    def do_DELETE(self) -> None:
        self._other("DELETE")

    def _other(self, method: str) -> None:
        if not self.server.api.answers(self, method, urlsplit(self.path).path):
            self.answer(405, status(405, "MethodNotAllowed", "the method is not allowed"), {})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.server.api.answers(self, "GET", url.path):
            return
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        api, resource = self.server.api, PATHS.get(url.path, "")
        if url.path == CLUSTER_PATH:
            resource = "namespaces"
        watching = query.get("watch") in ("1", "true")
        code, body, headers = 200, {}, {}
        fault = api.fault_of(resource, watching)
        if fault is not None and fault.status:
            code, body = fault.status, status(fault.status, "Failure", "as the test wants")
            if fault.retry_after is not None:
                headers["Retry-After"] = str(fault.retry_after)
        elif api.token and self.token() != api.token:
            code, body = 401, status(401, "Unauthorized", "Unauthorized")
        elif resource in api.denied:
            code, body = 403, status(403, "Forbidden", f'{resource} is forbidden: User "test"')
        elif not resource:
            code, body = 404, status(404, "NotFound", "the server could not find it")
        elif watching and api.expired(int(query.get("resourceVersion") or 0)):
            code, body = 410, status(410, "Expired", "too old resource version")
        elif resource == "namespaces":
            body = {
                "kind": "Namespace",
                "apiVersion": "v1",
                "metadata": {"name": "kube-system", "uid": CLUSTER_UID},
            }
        elif not watching:
            code, body = api.page(resource, query)
        api.requests.append(Request(resource, query, code))
        if fault is not None and fault.hang:
            self.hang()
        elif code != 200 or not watching:
            self.answer(code, body, headers, half=fault is not None and fault.half)
        else:
            self._stream(resource, query, fault)

    def token(self) -> str:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""

    def answer(self, code: int, body: Json, headers: dict[str, str], *, half: bool = False) -> None:
        """Send a whole answer, or half of one."""
        text = json.dumps(body).encode()
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(text) > _COMPRESSED_FROM_BYTES:
            text = gzip.compress(text, compresslevel=1)
            headers = {**headers, "Content-Encoding": "gzip"}
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text[: len(text) // 2] if half else text)
        self.close_connection = self.close_connection or half

    def _stream(self, resource: str, query: dict[str, str], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        if fault is not None and fault.gone_inside:
            self._chunk(GONE.read_bytes().strip() + b"\n")
        elif fault is not None and fault.half:
            self._chunk(b'{"type":"MODIFIED","object":{"kind":"Po')
            return
        else:
            for event in self.server.api.follow(resource, query, lambda: self.server.going_on):
                self._line(event)
        if self.server.going_on:
            self._chunk(b"")

    def _line(self, event: Json) -> None:
        self._chunk(json.dumps(event).encode() + b"\n")

    def _chunk(self, text: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def hang(self) -> None:
        """Begin an answer, and never end it."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        while self.server.going_on:
            time.sleep(0.02)

    def log_message(self, format: str, *args: Any) -> None:
        """The tests look at `requests` instead."""


def status(code: int, reason: str, message: str) -> Json:
    """The Status object of a refusal."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def now() -> str:
    """The time as the API writes it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _selected(each: Json, query: dict[str, str]) -> bool:
    path, _, wanted = query.get("fieldSelector", "").partition("=")
    found: Any = each
    for key in path.split(".") if path else ():
        found = found.get(key, {})
    labels = each["metadata"].get("labels", {})
    asked = dict(
        word.split("=") for word in filter(None, query.get("labelSelector", "").split(","))
    )
    return (not path or found == wanted) and all(
        labels.get(name) == value for name, value in asked.items()
    )


def _certificates() -> tuple[bytes, bytes, bytes]:
    """An authority, a certificate for 127.0.0.1 that it signed, and that one's key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    keys = {each: ec.generate_private_key(ec.SECP256R1()) for each in ("authority", "apiserver")}
    began = datetime.now(UTC) - timedelta(days=1)
    signer = keys["authority"].public_key()
    pems = []
    for each, key in keys.items():
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(each))
            .issuer_name(name("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), False)
            .add_extension(x509.BasicConstraints(each == "authority", None), critical=True)
        )
        if each == "apiserver":
            address = x509.IPAddress(ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), False)
        signed = builder.sign(keys["authority"], hashes.SHA256())
        pems.append(signed.public_bytes(serialization.Encoding.PEM))
    key_pem = keys["apiserver"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pems[0], pems[1], key_pem


@contextmanager
def _files(*contents: bytes) -> Iterator[list[str]]:
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / str(i) for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        yield [str(path) for path in paths]


def main() -> None:
    """Serve objects until interrupted, making the changes that stdin tells."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--objects", type=Path, nargs="*", default=[])
    parser.add_argument("--kubeconfig", type=Path, required=True, help="where to write it")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--token")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    api = ApiServer(tls=args.tls, token=args.token)
    api.load(args.objects)
    with api:
        api.kubeconfig(args.kubeconfig)
        print(api.url, flush=True)
        with suppress(KeyboardInterrupt):
            for line in sys.stdin:
                api.tell(json.loads(line))
            signal.pause()


if __name__ == "__main__":
    main()
