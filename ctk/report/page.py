"""
The HTML page: one file that opens from a disk, without a network.

Scripts and style stand in the page, and its policy names their hashes, so that nothing else runs
and nothing is fetched. The document is base64: no text of a recording is markup anywhere.
"""

import base64
import gzip
import hashlib
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from ctk.report.document import Document

# In the order they are run: each uses what those before it put into `ctk`.
_SCRIPTS = (
    "vendor/htm-preact.js",
    "vendor/uplot.js",
    "words.js",
    "graph.js",
    "layout.js",
    "address.js",
    "timeline.js",
    "map.js",
    "sections.js",
    "panel.js",
    "main.js",
)
_STYLES = ("vendor/uplot.css", "page.css")
_NOSCRIPT_ROWS = 50


def report(document: Document) -> bytes:
    """Give the page that holds a document."""
    from orjson import dumps

    packed = base64.b64encode(gzip.compress(dumps(document), 6, mtime=0)).decode()
    source, answered = document["source"], document["answered"]
    holds = "a ctk report: who talked to whom, with names, addresses and, unless left out, labels"
    span = f"{answered['since']} to {answered['until']}"
    return _page(
        title=f"ctk: {', '.join(source['nodes']) or source['file']}",
        holds=f"{holds}; of {span}",
        before_script=f"<noscript>{''.join(_without_script(document))}</noscript>",
        data=f'<script type="application/octet-stream" id="document">{packed}</script>',
        policy=_policy(),
    )


@cache
def served() -> bytes:
    """Give the page that fetches its document from where it came from."""
    return _page(
        title="ctk",
        holds="a ctk page",
        before_script="<noscript>This page needs JavaScript; `ctk top` does not.</noscript>",
        data="",
        policy=policy_of_served(),
    )


def policy_of_served() -> str:
    """Give the Content-Security-Policy of the served page: it asks its own server only."""
    return "; ".join([_policy(), "connect-src 'self'"])


@cache
def _policy() -> str:
    parts = [
        "default-src 'none'",
        f"script-src {' '.join(map(_hash, _scripts()))}",
        f"style-src {_hash(_style())}",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(parts)


def _scripts() -> list[str]:
    return [_asset(name) for name in _SCRIPTS]


def _style() -> str:
    return "\n".join(map(_asset, _STYLES))


def _page(*, title: str, holds: str, before_script: str, data: str, policy: str) -> bytes:
    parts = {
        "csp": escape(policy),
        "title": escape(title),
        "style": _style(),
        "holds": escape(holds).replace("--", "- -"),
        "before_script": before_script,
        "document": data,
        "scripts": "\n".join(f"<script>{script}</script>" for script in _scripts()),
    }
    return Template(_asset("page.html")).substitute(parts).encode()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _asset(name: str) -> str:
    text = files("ctk.report").joinpath("page", *name.split("/")).read_text("utf-8")
    return text.replace("</script", "<\\/script") if name.endswith(".js") else text


def _without_script(document: Document) -> Iterator[str]:
    """Give what a preview shows: the first edges as a table."""
    names = [node["name"] for node in document["nodes"]]
    yield "<h1>ctk</h1><p>What moved most, what fails first; the page itself needs JavaScript.</p>"
    yield "<table><tr><th>From<th>To<th>Service<th>Port<th>Connections<th>Failed<th>Bytes</tr>"
    for edge in document["edges"][:_NOSCRIPT_ROWS]:
        moved = [edge[key] for key in ("bytes_out", "bytes_in") if edge[key] is not None]
        cells = [
            names[edge["src"]],
            names[edge["dst"]],
            edge["service"] or "",
            f"{edge['port'] or ''} {edge['proto']}",
            f"{edge['connections']:,}",
            f"{edge['refused'] + edge['unreplied']:,}",
            f"{sum(moved):,}" if moved else "not measured",
        ]
        yield f"<tr>{''.join(f'<td>{escape(str(cell))}' for cell in cells)}</tr>"
    yield "</table>"
