"""
What may be asked in SQL: one statement that reads the tables there, and nothing around it.

ClickHouse's own readonly=1 refuses what writes, and most of what reads outside. It lets pass what
its embedded engine does as a client does: INTO OUTFILE, and settings that take limits off; and what
only looks at a file, as DESCRIBE does. So the words of a statement are looked at, too.
"""

import re
from collections.abc import Iterator

from ctk.errors import UsageError
from ctk.fleet.clickhouse.client import Client

HINT = "a question only reads: SELECT or WITH"
_FIRST = ("select", "with", "show", "describe", "desc", "explain", "from")
# Functions that make a table of nothing from outside; all others are refused.
_OF_NOTHING = (
    *("format", "fuzzquery", "fuzzjson", "generaterandom", "generateseries", "generate_series"),
    *("merge", "null", "numbers", "numbers_mt", "primes", "sqlstandardvalues", "values", "view"),
    *("viewexplain", "viewifpermitted", "zeros", "zeros_mt"),
)
_SIGNS = tuple("()[]{},.;:=<>!+-*/%|?@^~")
# What may stand after a column, and is no setting; of the last two there are settings, too.
_AFTER = (
    *("and", "as", "asc", "between", "desc", "else", "end", "except", "from", "global", "group"),
    *("having", "ilike", "in", "intersect", "is", "like", "not", "nulls", "or", "order", "then"),
    *("union", "when", "where", "limit", "offset"),
)
# As the parser of ClickHouse does: a name in quotes is a word, too.
_TOKENS = re.compile(
    r"""
    (?P<space>[\s\u180e\u200b-\u200d\u2060\ufeff]+|--[^\n]*|\#[!\ ][^\n]*|//[^\n]*)
    |(?P<comment>/\*)
    |(?P<here>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<text>'(?:[^'\\]|\\.|'')*')
    |(?P<quoted>"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|[\u201c\u2018][^\u201d\u2019]*[\u201d\u2019])
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>\d\w*)
    |(?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def check(client: Client, text: str) -> None:
    """Refuse what is no single statement that reads; ClickHouse refuses what is wrong with it."""
    tokens = list(_tokens(text))
    while tokens and tokens[-1] == ("sign", ";"):
        tokens.pop()
    first = next((word for kind, word in tokens if word != "("), "")
    if first not in _FIRST:
        raise UsageError("the SQL may only read", hint=HINT)
    if ("sign", ";") in tokens:
        raise UsageError("the SQL is more than one statement", hint="ask one at a time")
    called = set()
    for at, (kind, word) in enumerate(tokens):
        _, following = tokens[at + 1] if at + 1 < len(tokens) else ("", "")
        after = tokens[at + 2][1] if at + 2 < len(tokens) else ""
        if kind in ("word", "quoted") and following == "(":
            called.add(word)
        if kind != "word":
            continue
        if word == "outfile" or (word == "insert" and following == "into"):
            raise UsageError("the SQL may only read", hint=HINT)
        if word == "settings" and _is_set(following, after):
            raise UsageError("the SQL may not set settings", hint="--timeout and --memory do")
        if word == "format" and following not in ("", *_SIGNS):
            raise UsageError("the SQL may not have a FORMAT", hint="-o csv, json or jsonl")
    if not called:
        return
    known = client.query("SELECT lower(name) FROM system.table_functions").rows
    outside = ({"file", *(str(name) for (name,) in known)} - set(_OF_NOTHING)) & called
    if outside:
        raise UsageError(
            f"the SQL may not read from outside: {sorted(outside)[0]}()",
            hint="SELECT ... FROM flows_1m",
        )


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield what a statement is made of, in small letters, without spaces and comments."""
    at = 0
    while found := _TOKENS.match(text, at):
        at = found.end()
        kind = str(found.lastgroup) if found.lastgroup != "tag" else "here"
        if kind == "comment":
            at = _after_comment(text, at)
        elif kind == "quoted":
            yield kind, found[0][1:-1].lower()
        elif kind in ("text", "here"):
            yield kind, "''"
        elif kind != "space":
            yield kind, found[0].lower()


def _after_comment(text: str, at: int) -> int:
    """Give where a comment ends: there may be comments in it."""
    depth = 1
    while depth and (found := re.compile(r"/\*|\*/").search(text, at)):
        depth += 1 if found[0] == "/*" else -1
        at = found.end()
    return at if not depth else len(text)


def _is_set(following: str, after: str) -> bool:
    """Say whether these words after SETTINGS are a setting, or the column of that name is meant."""
    if following in ("", "''", *_SIGNS):
        return False
    return following not in _AFTER or after == "=" or (following in _AFTER[-2:] and after == ",")
