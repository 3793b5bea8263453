"""Numbers as people write them: ports, sizes, counts."""

import re

from ctk.errors import UsageError
from ctk.timespan import FOREVER_NS

_SIZE = r"([0-9]{1,19})(?:([KMGT])(iB|B)?|B)?"
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_port(text: str) -> int:
    """Turn "443" into a number from 0 to 65535."""
    if not (text.isdecimal() and text.isascii() and len(text) <= 5 and int(text) <= 65535):
        raise UsageError(f"{text!r} is not a port", hint="a number from 0 to 65535")
    return int(text)


def parse_ports(text: str) -> range:
    """Turn "443" or "8000-8999", the last one included, into the ports from there to there."""
    first, _, last = text.partition("-")
    if not text.endswith("-"):
        try:
            ports = range(parse_port(first), parse_port(last or first) + 1)
        except UsageError:
            ports = range(0)
        if ports:
            return ports
    raise UsageError(f"{text!r} is not a port", hint="a number from 0 to 65535, or 8000-8999")


def parse_size(text: str) -> int:
    """Turn "4096", "16MiB", "1G" or "500MB" into bytes: a K is 1,024, and 1,000 in KB."""
    match = re.fullmatch(_SIZE, text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write it as 512K, 16MiB or 1G")
    thousand = 1000 if (match[3] or "").upper() == "B" else 1024
    size = int(match[1]) * int(thousand ** _POWERS[(match[2] or "").upper()])
    if size > FOREVER_NS:
        raise UsageError(f"{text!r} is more than SQLite counts", hint="write it as 512K or 1G")
    return size


# The commit of a busy window, with its -wal, passes a limit of 1 MiB by a fifth.
_LEAST_BYTES = 2 << 20


def parse_file_size(text: str) -> int:
    """Turn what a file of flows may take into bytes: a unit that was forgotten is refused."""
    size = parse_size(text)
    if size < _LEAST_BYTES:
        raise UsageError(f"{text!r} is too small for a file of flows", hint="2MiB or more: 64MiB")
    return size


def parse_count(text: str | int) -> int:
    """Turn "50" into a count: a whole number that is not negative."""
    if not str(text).isdecimal():
        raise UsageError(f"{text!r} is not a count", hint="write it as 50")
    if len(str(text)) > 19 or int(text) > FOREVER_NS:
        raise UsageError(f"{text!r} is more than SQLite counts", hint="write it as 50")
    return int(text)
