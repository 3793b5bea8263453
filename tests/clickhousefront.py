"""
ClickHouse's HTTP interface before chDB: as much of it as clickhouse-connect speaks.

    python tests/clickhousefront.py FOLDER PORT PASSWORD

GET /cut?N lets the next N inserts of flows happen, and then closes the connection without an
answer, as a proxy does that gives up. GET /hold lets the next one happen, and leaves it without an
answer; GET /held is answered when it has.
"""

import base64
import re
import sys
import tempfile
import threading
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame
from backports import zstd

# What is said to HTTP, and is no setting.
_OF_HTTP = frozenset(
    [
        "query",
        "database",
        "query_id",
        "compress",
        "enable_http_compression",
        "session_id",
        "client_protocol_version",
        "default_format",
        "wait_end_of_query",
        "buffer_size",
        "role",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "quota_key",
    ]
)
_INSERT = re.compile(rb"INSERT INTO (?P<table>\S+) (?P<columns>\(.*?\)) FORMAT Native\n", re.DOTALL)


def _unpacked(data: bytes) -> bytes:
    """Unpack frames of LZ4, of which each block of an insert is one."""
    pieces = []
    while data:
        frame = lz4.frame.LZ4FrameDecompressor()
        pieces.append(frame.decompress(data))
        data = frame.unused_data or b""
    return b"".join(pieces)


def _form(kind: str, body: bytes) -> dict[str, str]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(
            decode=True
        ).decode()
        for part in message.iter_parts()
    }


_OPENERS = {"lz4": _unpacked, "zstd": zstd.decompress}


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = password = ""
    lock = threading.Lock()
    cut = 0
    hold = False
    held = threading.Event()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/cut":
            Front.cut = int(url.query)
            self._answer(200, b"")
        elif url.path == "/hold":
            Front.hold = True
            Front.held.clear()
            self._answer(200, b"")
        elif url.path == "/held":
            Front.held.wait()
            self._answer(200, b"")
        else:
            self._run(b"")

    def do_POST(self) -> None:
        body = self._body()
        self._run(_OPENERS.get(self.headers.get("Content-Encoding", ""), bytes)(body))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _run(self, body: bytes) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        token = base64.b64encode(f"ctk:{self.password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {token}":
            refused = (
                "Code: 516. DB::Exception: ctk: Authentication failed. (AUTHENTICATION_FAILED)"
            )
            self._answer(403, refused.encode(), code="516")
            return
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):  # where much is bound
            asked |= _form(kind, body)
            body = b""
        sql = asked.get("query", "").encode() + body
        try:
            with self.lock:
                found, kind = self._ask(sql, asked)
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(500, str(error).encode(), code=code[1] if code else "1001")
            return
        of_flows = sql.startswith(b"INSERT INTO") and b"`first_seen_ns`" in sql[:2000]
        if Front.hold and of_flows:
            Front.hold = False
            Front.held.set()
            self.rfile.read(1)  # until the client is gone
            self.close_connection = True
            return
        if Front.cut and of_flows:
            Front.cut -= 1
            self.close_connection = True
            return
        self._answer(200, found, kind=kind)

    def _ask(self, sql: bytes, asked: dict[str, str]) -> tuple[bytes, str | None]:
        conn = chdb.connect(self.folder)
        try:
            # A server sets all that stands in one question; here none is set after `readonly`.
            for name, value in sorted(asked.items(), key=lambda each: each[0] == "readonly"):
                if name not in _OF_HTTP and not name.startswith("param_"):
                    conn.query(f"SET {name} = '{value}'")
            if database := asked.get("database"):
                conn.query(f"USE `{database}`")
            if insert := _INSERT.match(sql):
                with tempfile.NamedTemporaryFile(suffix=".native") as file:
                    file.write(sql[insert.end() :])
                    file.flush()
                    table, columns = insert["table"].decode(), insert["columns"].decode()
                    conn.query(
                        f"INSERT INTO {table} {columns} FROM INFILE '{file.name}' FORMAT Native"
                    )
                return b"", None
            params = {
                name.removeprefix("param_"): value
                for name, value in asked.items()
                if name.startswith("param_")
            }
            found = conn.query(sql.decode(), "TabSeparated", params=params).bytes() or b""
            return found, "TabSeparated" if found else None
        finally:
            conn.close()

    def _answer(
        self, status: int, body: bytes, *, code: str | None = None, kind: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Summary", "{}")
        if kind:
            self.send_header("X-ClickHouse-Format", kind)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Front.folder, port, Front.password = sys.argv[1:]
    held = chdb.connect(Front.folder)  # the engine stays up between two requests
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Front)
    print(server.server_port, flush=True)
    server.serve_forever()
