"""
What chDB answers, as the values that the client of a server gives for the same types.

From its JSON, which orjson reads; or from RowBinary, which is slower here but holds floats as they
are: chDB's text of those from 1e100 on, and up to 1e-100, lacks a digit of the exponent ("1e10").
In a value of type JSON they are text there, too.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

import orjson

Read = Callable[[Any], Any]

_EPOCH, _DAY_0 = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1).toordinal()
_NAMED = re.compile(r"(?:`(?:[^`\\]|\\.)*`|\w+) (?=\S)")
_ENUM = re.compile(r"'((?:[^'\\]|\\.)*)' = (-?\d+)")
_WHOLE = re.compile(r"U?Int(\d+)")
_PLACE = "Tuple(Float64, Float64)"
_LINE = f"Array({_PLACE})"
_ALIASES = {
    "Point": _PLACE,
    "Ring": _LINE,
    "LineString": _LINE,
    "MultiLineString": f"Array({_LINE})",
    "Polygon": f"Array({_LINE})",
    "MultiPolygon": f"Array(Array({_LINE}))",
}


def parts(kind: str) -> tuple[str, list[str]]:
    """Give a type's name, and what stands in its brackets."""
    name, _, rest = _ALIASES.get(kind, kind).partition("(")
    found, depth, quoted, start = [], 0, False, 0
    for at, sign in enumerate(rest):
        if sign == "'" and rest[at - 1 : at] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif sign == "(":
            depth += 1
        elif sign == "," and not depth:
            found.append(rest[start:at].strip())
            start = at + 1
        elif sign == ")":
            depth -= 1
    return name, [*found, rest[start:-1].strip()] if rest[start:-1] else found


def of_json(kind: str) -> Read | None:
    """Give what makes of JSON the value of a type; None where JSON does."""
    name, of = parts(kind)
    if name == "LowCardinality":
        return of_json(of[0])
    if name == "Tuple":
        return _tuple_of_json(of)
    if name == "Map":
        return _map_of_json(*of)
    read = of_json(of[0]) if name in ("Nullable", "Array") else None
    if read is None:
        return _OF_JSON.get(name)
    if name == "Array":
        return lambda value: [read(each) for each in value]
    return lambda value: None if value is None else read(value)


def _tuple_of_json(of: Sequence[str]) -> Read:
    reads = [of_json(_NAMED.sub("", each, count=1)) or _as_it_is for each in of]

    def read(value: Any) -> Any:
        values = value.values() if isinstance(value, dict) else value
        made = tuple(read(each) for read, each in zip(reads, values, strict=True))
        return dict(zip(value, made, strict=True)) if isinstance(value, dict) else made

    return read


def _map_of_json(key: str, of: str) -> Read:
    # In JSON a key is text.
    read_key = of_json(key) or (int if _WHOLE.fullmatch(parts(key)[0]) else _as_it_is)
    read = of_json(of) or _as_it_is
    return lambda value: {read_key(each): read(its) for each, its in value.items()}


def _as_it_is(value: Any) -> Any:
    return value


_OF_JSON: Mapping[str, Read] = {
    "DateTime": datetime.fromisoformat,
    "DateTime64": datetime.fromisoformat,
    "Date": date.fromisoformat,
    "Date32": date.fromisoformat,
    "Decimal": Decimal,
    "Float32": float,
    "Float64": float,
    "UUID": UUID,
    "IPv4": IPv4Address,
    "IPv6": IPv6Address,
}


def has_floats(kind: str) -> bool:
    """Say whether there are floats in a type, whose text in JSON may lack a digit."""
    return "Float" in kind or any(name in kind for name in _ALIASES)


def is_cut(value: object) -> bool:
    """Say whether text of a float, in JSON, may lack a digit of its exponent."""
    if isinstance(value, float):
        # What lacks one reads as 1e10 or more. Up to 1e21 whole ones come as integers.
        size = abs(value)
        return size >= 1e10 or 0 < size < 1e-6
    if isinstance(value, dict):
        return any(map(is_cut, value.values())) or any(map(is_cut, map(_number, value)))
    return isinstance(value, list) and any(map(is_cut, value))


def _number(key: str) -> float | None:
    """Read a map's key, which is text in JSON, as a number where it is one."""
    try:
        return float(key)
    except ValueError:
        return None


def of_binary(answer: bytes) -> tuple[list[str], list[list[Any]]]:
    """Read RowBinaryWithNamesAndTypes: names and rows; a LookupError names a type it lacks."""
    data = _Bytes(answer)
    width = data.size()
    names = [data.text() for _ in range(width)]
    reads = [_of_bytes(data.text()) for _ in range(width)]
    rows = []
    while data.at < len(answer):
        rows.append([read(data) for read in reads])
    return names, rows


class _Bytes:
    """Where in an answer the next value begins."""

    def __init__(self, all_of_it: bytes) -> None:
        self._bytes = all_of_it
        self.at = 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self._bytes[self.at - count : self.at]

    def whole(self, count: int, *, signed: bool = True) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def size(self) -> int:
        found = shift = 0
        while (byte := self._bytes[self.at]) & 0x80:
            found |= (byte & 0x7F) << shift
            shift += 7
            self.at += 1
        self.at += 1
        return found | byte << shift

    def text(self) -> str:
        return self.take(self.size()).decode(errors="replace")


FromBytes = Callable[[_Bytes], Any]


def _of_bytes(kind: str) -> FromBytes:
    name, of = parts(kind)
    whole = _WHOLE.fullmatch(name)
    if whole:
        return _whole_of_bytes(int(whole[1]) // 8, signed=name[0] != "U")
    if name in _OF_BYTES:
        return _OF_BYTES[name]
    if name in _MADE_OF_BYTES:
        return _MADE_OF_BYTES[name](of)
    if name.startswith("Interval"):
        return _whole_of_bytes(8, signed=True)
    raise LookupError(kind)


def _whole_of_bytes(width: int, *, signed: bool) -> FromBytes:
    return lambda data: data.whole(width, signed=signed)


def _nullable_of_bytes(of: Sequence[str]) -> FromBytes:
    read = _of_bytes(of[0])
    return lambda data: None if data.take(1)[0] else read(data)


def _array_of_bytes(of: Sequence[str]) -> FromBytes:
    read = _of_bytes(of[0])
    return lambda data: [read(data) for _ in range(data.size())]


def _map_of_bytes(of: Sequence[str]) -> FromBytes:
    key, its = map(_of_bytes, of)
    return lambda data: {key(data): its(data) for _ in range(data.size())}


def _variant_of_bytes(of: Sequence[str]) -> FromBytes:
    reads = [_of_bytes(each) for each in of]

    def read(data: _Bytes) -> Any:
        which = data.whole(1, signed=False)
        return None if which == _NO_VARIANT else reads[which](data)

    return read


def _enum_of_bytes(width: int) -> Callable[[Sequence[str]], FromBytes]:
    def of_bytes(of: Sequence[str]) -> FromBytes:
        names = {int(number): text for text, number in _ENUM.findall(", ".join(of))}
        return lambda data: names[data.whole(width)]

    return of_bytes


def _moment_of_bytes(of: Sequence[str]) -> FromBytes:
    ticks = 10 ** int(of[0])
    return lambda data: _EPOCH + timedelta(microseconds=data.whole(8) * 1_000_000 // ticks)


def _decimal_of_bytes(of: Sequence[str]) -> FromBytes:
    width = next(width for width, digits in _DECIMALS if int(of[0]) <= digits)
    return lambda data: Decimal(data.whole(width)).scaleb(-int(of[1]))


def _tuple_of_bytes(of: Sequence[str]) -> FromBytes:
    names = [found[0].strip(" `") if (found := _NAMED.match(each)) else None for each in of]
    reads = [_of_bytes(_NAMED.sub("", each, count=1)) for each in of]

    def read(data: _Bytes) -> Any:
        values = (each(data) for each in reads)
        return dict(zip(names, values, strict=True)) if all(names) and names else tuple(values)

    return read


_NO_VARIANT = 255
_DECIMALS = ((4, 9), (8, 18), (16, 38), (32, 76))  # bytes, for as many digits
_MADE_OF_BYTES: Mapping[str, Callable[[Sequence[str]], FromBytes]] = {
    "LowCardinality": lambda of: _of_bytes(of[0]),
    "Nullable": _nullable_of_bytes,
    "Array": _array_of_bytes,
    "Map": _map_of_bytes,
    "Tuple": _tuple_of_bytes,
    "Variant": _variant_of_bytes,
    "JSON": lambda of: lambda data: orjson.loads(data.take(data.size())),
    "FixedString": lambda of: lambda data: data.take(int(of[0])).decode(errors="replace"),
    "Enum8": _enum_of_bytes(1),
    "Enum16": _enum_of_bytes(2),
    "DateTime64": _moment_of_bytes,
    "Decimal": _decimal_of_bytes,
}
_OF_BYTES: Mapping[str, FromBytes] = {
    "String": _Bytes.text,
    "Bool": lambda data: bool(data.take(1)[0]),
    "Float32": lambda data: struct.unpack("<f", data.take(4))[0],
    "Float64": lambda data: struct.unpack("<d", data.take(8))[0],
    "Date": lambda data: date.fromordinal(_DAY_0 + data.whole(2, signed=False)),
    "Date32": lambda data: date.fromordinal(_DAY_0 + data.whole(4)),
    "DateTime": lambda data: _EPOCH + timedelta(seconds=data.whole(4, signed=False)),
    "UUID": lambda data: UUID(int=data.whole(8, signed=False) << 64 | data.whole(8, signed=False)),
    "IPv4": lambda data: IPv4Address(data.whole(4, signed=False)),
    "IPv6": lambda data: IPv6Address(data.take(16)),
    "Nothing": lambda data: None,
}


def bound(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Write values as the engine reads parameters."""
    for name, value in values.items():
        yield name, _bound(value)


def _bound(value: object) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_nested(each) for each in value)}]"
    return str(value)


def _nested(value: object) -> str:
    if value is None:
        return "NULL"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """Write text as SQL has it."""
    return f"'{_escaped(text)}'"


_ESCAPES = {"\\": "\\\\", "'": "\\'", "\b": "\\b", "\f": "\\f", "\r": "\\r", "\n": "\\n"}
_ESCAPES |= {"\t": "\\t", "\0": "\\0"}
_ESCAPED = str.maketrans(_ESCAPES)


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED)
