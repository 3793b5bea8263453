"""Decoding, held against pyroute2's decoder and against messages of known content."""

import gc
import os
import random
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire import (
    CLOSE,
    CONFIRMED,
    ESTABLISHED,
    ICMP,
    ICMPV6,
    SEEN_REPLY,
    SYN_SENT,
    TCP,
    UDP,
    Connection,
    attribute,
    batch,
    message,
    nest,
    number,
)

from ctk.conntrack import outcome
from ctk.conntrack.attributes import CTA_STATUS, MalformedError
from ctk.conntrack.capture import Capture
from ctk.conntrack.connections import Connections
from ctk.conntrack.decode import (
    DESTROY,
    DUMPED,
    NEW,
    UPDATE,
    Decoder,
    Event,
)
from ctk.conntrack.names import PROTOCOLS
from ctk.conntrack.tuples import TupleReader, parse_tuples
from ctk.model import Datagrams, FlowTuple

CAPTURES = sorted((Path(__file__).parents[1] / "fixtures" / "captures").glob("*.gz"))
MUTATIONS = int(os.environ.get("CTK_MUTATIONS", "30_000"))  # 1,000,000 take 20 s


def test_places_in_an_event_are_those_of_its_fields():
    event = Event._make(range(len(Event._fields)))  # each value is its place
    places = {
        outcome.WHAT: event.what,
        outcome.ORIG: event.orig,
        outcome.PORT: event.port,
        outcome.REPLY: event.reply,
        outcome.ZONE: event.zone,
        outcome.ID: event.ct_id,
        outcome.AT: event.at_ns,
        outcome.STATUS: event.status,
        outcome.TCP_STATE: event.tcp_state,
        outcome.START: event.start_ns,
    }
    assert all(place == found for place, found in places.items())
    assert event[outcome.OUTCOME] == (event.status, event.tcp_state)
    counters = (event.packets_out, event.bytes_out, event.packets_in, event.bytes_in)
    assert outcome.four_of(event) == counters


def read(*messages: bytes, at_ns: int = 7) -> list[Event]:
    decoder = Decoder()
    found = [Event(*values) for values in decoder.read(batch(*messages, at_ns=at_ns))]
    assert decoder.malformed == 0
    return found


def flow(event: Event) -> FlowTuple:
    return parse_tuples(event.orig, event.reply, event.zone)


# Against the oracle.


def recorded(path: Path) -> list[Datagrams]:
    with Capture(path) as capture:
        return list(capture)


def by_pyroute2(raw: bytes, at_ns: int) -> tuple[dict[str, object], FlowTuple]:
    """What pyroute2's decoder finds in a message, under our names."""
    from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

    said = nfct_msg(raw)
    said.decode()
    header = said["header"]
    kinds = {
        (0x100, 0x600): NEW,
        (0x100, 0): UPDATE,
        (0x102, 0): DESTROY,
        (0x100, 2): DUMPED,
    }
    found: dict[str, object] = {
        "what": kinds[header["type"], header["flags"]],
        "zone": said.get_attr("CTA_ZONE") or 0,
        "ct_id": said.get_attr("CTA_ID"),
        "at_ns": timestamp_event(raw) or at_ns,
        "status": said.get_attr("CTA_STATUS"),
        "tcp_state": said.get_nested(
            "CTA_PROTOINFO", "CTA_PROTOINFO_TCP", "CTA_PROTOINFO_TCP_STATE"
        ),
        "packets_out": said.get_nested("CTA_COUNTERS_ORIG", "CTA_COUNTERS_PACKETS"),
        "bytes_out": said.get_nested("CTA_COUNTERS_ORIG", "CTA_COUNTERS_BYTES"),
        "packets_in": said.get_nested("CTA_COUNTERS_REPLY", "CTA_COUNTERS_PACKETS"),
        "bytes_in": said.get_nested("CTA_COUNTERS_REPLY", "CTA_COUNTERS_BYTES"),
        "start_ns": said.get_nested("CTA_TIMESTAMP", "CTA_TIMESTAMP_START"),
        "stop_ns": said.get_nested("CTA_TIMESTAMP", "CTA_TIMESTAMP_STOP"),
    }
    orig, reply = said.get_attr("CTA_TUPLE_ORIG"), said.get_attr("CTA_TUPLE_REPLY")
    version = "V4" if said["nfgen_family"] == 2 else "V6"
    ends = {
        (side, end): ip_address(part.get_nested("CTA_TUPLE_IP", f"CTA_IP_{version}_{end}")).packed
        for side, part in (("orig", orig), ("reply", reply))
        for end in ("SRC", "DST")
    }
    in_proto = orig.get_attr("CTA_TUPLE_PROTO")
    ports = [
        in_proto.get_attr(f"CTA_PROTO_{name}") for name in ("SRC_PORT", "ICMP_ID", "ICMPV6_ID")
    ]
    found["port"] = next((port for port in ports if port is not None), 0)
    # pyroute2 does not know CTA_TUPLE_ZONE: it leaves it where it is.
    zones = [value for kind, value in orig["attrs"] if kind == "UNKNOWN"]
    zone_of_original = struct.unpack_from(">H", raw, zones[0].offset + 4)[0] if zones else 0
    protocol = in_proto.get_attr("CTA_PROTO_NUM")
    return found, FlowTuple(
        PROTOCOLS.get(protocol, str(protocol)),
        found["zone"] or zone_of_original,
        ends["orig", "SRC"],
        ends["orig", "DST"],
        in_proto.get_attr("CTA_PROTO_DST_PORT"),
        ends["reply", "SRC"],
        reply.get_nested("CTA_TUPLE_PROTO", "CTA_PROTO_SRC_PORT"),
        ends["reply", "DST"],
    )


def timestamp_event(raw: bytes) -> int | None:
    """CTA_TIMESTAMP_EVENT, which pyroute2 does not know: the last attribute of an event."""
    at = 20
    while at < len(raw):
        size, kind = struct.unpack_from("=HH", raw, at)
        if kind == 27:
            return struct.unpack_from(">Q", raw, at + 4)[0]
        at += (size + 3) & ~3
    return None


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.split(".")[0])
def test_every_recorded_message_reads_as_pyroute2_reads_it(path):
    decoder, seen = Decoder(), 0
    for each in recorded(path):
        events = decoder.read(each)
        assert len(events) == len(each.lengths)
        for offset, length, event in zip(
            each.offsets, each.lengths, map(Event._make, events), strict=True
        ):
            found, tuples = by_pyroute2(bytes(each.buffer[offset : offset + length]), each.at_ns)
            assert {name: getattr(event, name) for name in found} == found
            assert flow(event) == tuples
            seen += 1
    assert (decoder.malformed, seen > 500) == (0, True)


# Messages of known content.

DIALLED = Connection(backend="10.244.0.11", backend_port=8080)
THERE = Connection(src="fd00::15", dst="fd00::b", dst_port=8080)
PING = Connection(proto=ICMP, port=77, dst="10.244.0.22")


@pytest.mark.parametrize(
    ("connection", "tuples", "port"),
    [
        pytest.param(
            DIALLED,
            ("tcp", 0, "10.244.0.21", "10.96.0.80", 80, "10.244.0.11", 8080, "10.244.0.21"),
            40_000,
            id="a service's address is dialled, a pod answers",
        ),
        pytest.param(
            Connection(masquerade="172.18.0.2", masquerade_port=1024, dst="1.1.1.1", dst_port=443),
            ("tcp", 0, "10.244.0.21", "1.1.1.1", 443, "1.1.1.1", 443, "172.18.0.2"),
            40_000,
            id="masqueraded",
        ),
        pytest.param(
            THERE,
            ("tcp", 0, "fd00::15", "fd00::b", 8080, "fd00::b", 8080, "fd00::15"),
            40_000,
            id="IPv6",
        ),
        pytest.param(
            Connection(proto=UDP, dst_port=53),
            ("udp", 0, "10.244.0.21", "10.96.0.80", 53, "10.96.0.80", 53, "10.244.0.21"),
            40_000,
            id="UDP",
        ),
        pytest.param(
            PING,
            ("icmp", 0, "10.244.0.21", "10.244.0.22", None, "10.244.0.22", None, "10.244.0.21"),
            77,
            id="ICMP has an id in place of a port",
        ),
        pytest.param(
            Connection(proto=ICMPV6, port=9, src="fd00::15", dst="fd00::b"),
            ("icmpv6", 0, "fd00::15", "fd00::b", None, "fd00::b", None, "fd00::15"),
            9,
            id="ICMPv6",
        ),
        *(
            pytest.param(
                Connection(proto=number_, dst_port=5001),
                (name, 0, "10.244.0.21", "10.96.0.80", 5001, "10.96.0.80", 5001, "10.244.0.21"),
                40_000,
                id=name,
            )
            for number_, name in ((132, "sctp"), (33, "dccp"), (136, "udplite"), (47, "gre"))
        ),
        pytest.param(
            Connection(proto=253),
            ("253", 0, "10.244.0.21", "10.96.0.80", None, "10.96.0.80", None, "10.244.0.21"),
            0,
            id="a protocol without a name has its number, and no ports",
        ),
        pytest.param(
            Connection(zone=7),
            ("tcp", 7, "10.244.0.21", "10.96.0.80", 80, "10.96.0.80", 80, "10.244.0.21"),
            40_000,
            id="a zone of both directions",
        ),
        pytest.param(
            Connection(zone_of_original=9),
            ("tcp", 9, "10.244.0.21", "10.96.0.80", 80, "10.96.0.80", 80, "10.244.0.21"),
            40_000,
            id="a zone of the original direction",
        ),
        pytest.param(
            Connection(zone_of_reply=9),
            ("tcp", 0, "10.244.0.21", "10.96.0.80", 80, "10.96.0.80", 80, "10.244.0.21"),
            40_000,
            id="a zone of the reply direction",
        ),
    ],
)
def test_tuples(connection, tuples, port):
    for each in read(connection.new(5), connection.update(5), connection.destroy(5)):
        proto, zone, src, dst, dst_port, reply_src, reply_src_port, reply_dst = tuples
        packed = [ip_address(text).packed for text in (src, dst, reply_src, reply_dst)]
        assert (flow(each), each.port) == (
            FlowTuple(proto, zone, *packed[:2], dst_port, packed[2], reply_src_port, packed[3]),
            port,
        )


def test_values():
    counted = (10, 11, 12, 13)
    events = read(
        DIALLED.new(1),
        DIALLED.update(2),
        DIALLED.destroy(3, counted, state=CLOSE, status=CONFIRMED, start_ns=1),
        DIALLED.listed(counted, start_ns=1),
        DIALLED.new(),
        at_ns=99,
    )
    none = (None,) * 4
    replied = CONFIRMED | SEEN_REPLY
    assert [(event.what, *event[4:]) for event in events] == [
        (NEW, 0, 1, 1, CONFIRMED, SYN_SENT, *none, None, None),
        (UPDATE, 0, 1, 2, replied, ESTABLISHED, *none, None, None),
        (DESTROY, 0, 1, 3, CONFIRMED, CLOSE, *counted, 1, None),
        (DUMPED, 0, 1, 99, replied, ESTABLISHED, *counted, 1, None),
        (NEW, 0, 1, 99, CONFIRMED, SYN_SENT, *none, None, None),
    ]


def test_new_and_update_differ_by_their_flags_alone():
    new = DIALLED.new(1)
    update = new[:6] + bytes(2) + new[8:]
    assert [event.what for event in read(new, update, new)] == [NEW, UPDATE, NEW]


def test_messages_of_one_length_may_have_different_layouts():
    head, tail = DIALLED.tuples(), number(3, "I", CONFIRMED)
    id_first = message(2, *head, number(12, "I", 5), tail)
    status_first = message(2, *head, tail, number(12, "I", 5))
    marked = message(2, *head, number(8, "I", 3), number(12, "I", 5))
    assert len(id_first) == len(status_first) == len(marked)
    assert [
        (event.ct_id, event.status) for event in read(*[id_first, status_first, marked] * 2)
    ] == [
        (5, CONFIRMED),
        (5, CONFIRMED),
        (5, None),
    ] * 2


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_zones_of_each_direction_have_messages_of_one_length(order):
    zoned = [Connection(zone=9), Connection(zone_of_original=9), Connection(zone_of_reply=9)]
    messages = [zoned[n].new(1) for n in order]
    assert len(set(map(len, messages))) == 1
    assert [flow(event).zone for event in read(*messages)] == [(9, 9, 0)[n] for n in order]


def key(event: Event) -> tuple[bytes, bytes, int]:
    return event.orig, event.reply, event.zone


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Connection(port=1), Connection(port=2), True),
        (Connection(proto=ICMP, port=1), Connection(proto=ICMP, port=2), True),
        (
            Connection(masquerade="172.18.0.2", masquerade_port=1),
            Connection(masquerade="172.18.0.2", masquerade_port=2),
            True,
        ),
        (Connection(ct_id=1), Connection(ct_id=2), True),
        (Connection(dst_port=1), Connection(dst_port=2), False),
        (Connection(backend="10.0.0.1"), Connection(backend="10.0.0.2"), False),
        (Connection(backend_port=1), Connection(backend_port=2), False),
        (Connection(zone=1), Connection(zone=2), False),
        (Connection(zone_of_original=1), Connection(zone_of_original=2), False),
        (Connection(proto=TCP), Connection(proto=UDP), False),
        (Connection(proto=253), Connection(proto=254), False),
    ],
)
def test_a_flow_is_told_by_all_but_the_source_port(one, other, same):
    first, second = read(one.new(1), other.new(1))
    assert (key(first) == key(second)) is same


def test_an_unknown_attribute_is_passed_over():
    raw = DIALLED.new(4)
    longer = raw[20:] + attribute(99, b"abcde")
    assert read(message(2, longer, flags=0x600))[0][:7] == read(raw)[0][:7]


# What is not a conntrack message.

GOOD = DIALLED.new(1)
ORIG, REPLY = DIALLED.tuples()
ID = number(12, "I", 1)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:19], id="shorter than its headers"),
        pytest.param(GOOD[:-4], id="shorter than its header says"),
        pytest.param(GOOD + bytes(4), id="longer than its header says"),
        pytest.param(message(2, ORIG, REPLY, ID, kind=0x200), id="of another subsystem"),
        pytest.param(message(2, ORIG, REPLY, ID, kind=0x101), id="a request"),
        pytest.param(message(2, ORIG, ID), id="without a reply tuple"),
        pytest.param(message(2, REPLY, ORIG, ID), id="tuples the wrong way round"),
        pytest.param(message(2, ORIG, REPLY), id="without an id"),
        pytest.param(message(2, ORIG, REPLY, number(12, "H", 1)), id="an id of two bytes"),
        pytest.param(message(2, ORIG, REPLY, ID, b"\3\0\1\0"), id="an attribute of three bytes"),
        pytest.param(message(2, ORIG, REPLY, ID, b"\x40\0\1\0"), id="an attribute past the end"),
        pytest.param(message(2, ORIG, REPLY, ID, b"\4\0"), id="half an attribute's header"),
        pytest.param(message(2, ORIG, REPLY, ID, *[number(99, "I", 0)] * 200), id="too many"),
    ],
)
def test_what_is_malformed_is_counted_and_skipped(raw):
    decoder = Decoder()
    good = batch(GOOD, raw, GOOD, at_ns=7)
    assert [event[5] for event in decoder.read(good)] == [1, 1]
    assert decoder.malformed == 1


@pytest.mark.parametrize(
    ("orig", "reply"),
    [
        pytest.param(ORIG, Connection(proto=UDP).tuples()[1], id="of two protocols"),
        pytest.param(ORIG, THERE.tuples()[1], id="of two families"),
        pytest.param(nest(1), nest(2), id="empty"),
    ],
)
def test_tuples_that_do_not_fit_are_counted_once_they_are_parsed(orig, reply):
    decoder, connections = Decoder(), Connections()
    for values in decoder.read(batch(message(2, orig, reply, ID), at_ns=7)):
        assert connections.flow(*key(Event(*values))) is None
    assert decoder.malformed + connections.malformed == 1


# Anything at all.


def parsed(decoder: Decoder, connections: Connections, raw: bytes) -> None:
    for values in decoder.read(batch(raw, at_ns=7)):
        event = Event(*values)
        assert isinstance(event.ct_id, int)
        connections.flow(*key(event))


@given(st.binary(max_size=400))
@example(GOOD)
def test_no_bytes_raise(raw):
    parsed(Decoder(), Connections(), raw)
    with suppress(MalformedError):
        parse_tuples(raw[: len(raw) // 2], raw[len(raw) // 2 :], 0)


@given(st.binary(max_size=400))
def test_no_attributes_raise(raw):
    parsed(Decoder(), Connections(), message(2, raw))
    parsed(Decoder(), Connections(), message(10, ORIG, REPLY, raw))


def mutated(chance: random.Random, raw: bytes) -> bytes:
    """A message with some bits, bytes or lengths changed, cut off or put twice."""
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.randrange(256)
            case 2:  # the length or type of an attribute, as likely as not
                at = 16 + 4 * chance.randrange(max(1, len(changed) // 4 - 4))
                changed[at : at + 2] = chance.choice((0, 1, 3, 4, 8, 0xFFFF)).to_bytes(2, "little")
            case 3:
                del changed[at : at + chance.choice((1, 4, 8))]
            case 4:
                changed[at:at] = changed[at : at + chance.choice((4, 8, 36))]
        if not changed:
            return b""
    if chance.random() < 0.9 and len(changed) >= 4:
        changed[:4] = len(changed).to_bytes(4, sys.byteorder)
    return bytes(changed)


@cache
def every_layout() -> list[bytes]:
    """One recorded message of each length."""
    found: dict[int, bytes] = {}
    for path in CAPTURES:
        for each in recorded(path):
            for offset, length in zip(each.offsets, each.lengths, strict=True):
                found[length] = bytes(each.buffer[offset : offset + length])
    return list(found.values())


def tuples_or_none(read_tuples: Callable[[], FlowTuple]) -> FlowTuple | None:
    try:
        return read_tuples()
    except MalformedError:
        return None


def test_mutated_messages_never_raise_and_leave_nothing_behind():
    chance = random.Random(1)
    originals = every_layout()
    decoder, tuples = Decoder(), TupleReader()
    read_ = malformed = 0
    blocks = []
    for n in range(MUTATIONS):
        if n in (MUTATIONS // 2, MUTATIONS - 1):
            gc.collect()
            blocks.append(sys.getallocatedblocks())
        raw = mutated(chance, chance.choice(originals))
        events = decoder.read(batch(raw, at_ns=7))
        read_ += len(events)
        for values in events:
            event = Event(*values)
            read_tuples = tuples_or_none(lambda event=event: tuples.read(*key(event)))
            assert read_tuples == tuples_or_none(lambda event=event: flow(event))
            malformed += read_tuples is None
    assert decoder.malformed + read_ == MUTATIONS
    assert min(decoder.malformed, read_, malformed) > MUTATIONS / 100
    assert abs(blocks[1] - blocks[0]) < 1000
    # What was learned on the way leaves good messages as they were.
    for raw in originals:
        assert decoder.read(batch(raw, at_ns=7)) == Decoder().read(batch(raw, at_ns=7))


def test_families_whose_tuples_are_as_long_are_told_apart():
    """ICMP's of IPv4 and ESP's of IPv6: by the other's layout they would be read wrongly."""
    ping = Connection(proto=ICMP, src="10.0.0.1", dst="10.0.0.2", port=7).new(7)
    esp = Connection(proto=50, src="fd00::1", dst="fd00::2", port=None).new(7)
    assert len(ping) == len(esp)
    assert [flow(each).proto for each in read(ping, esp, ping)] == ["icmp", "esp", "icmp"]
    assert read(ping, esp, ping) == [*read(ping), *read(esp), *read(ping)]


SLOT = 1024


@pytest.mark.parametrize("slot", [None, SLOT], ids=["one behind the other", "in slots"])
@pytest.mark.parametrize("other", [None, 0, 70, 299], ids=lambda n: f"other at {n}")
@pytest.mark.parametrize(
    "another",
    [Connection(proto=UDP).update(), Connection(zone_of_reply=7).new(), b"\0" * 40],
    ids=["of its length or not", "of another layout", "no message"],
)
def test_messages_of_one_layout_are_read_as_each_of_them_is(slot, other, another):
    raws = [Connection(proto=UDP, port=n, ct_id=n).new() for n in range(300)]
    if other is not None:
        raws[other] = another
    at = [0]
    for raw in raws:
        at.append(at[-1] + (slot or len(raw)))
    buffer = bytearray(b"".join(raw.ljust(slot or 0, b"\0") for raw in raws))
    offsets = range(0, 300 * SLOT, SLOT) if slot else at[:-1]
    decoder, each = Decoder(), Decoder()
    found = decoder.read(Datagrams(7, False, buffer, offsets, [len(raw) for raw in raws]))
    alone = [event for raw in raws for event in each.read(batch(raw, at_ns=7))]
    assert (found, decoder.malformed) == (alone, each.malformed)


def test_a_header_that_differs_within_a_run_is_not_passed_over():
    raws = [Connection(proto=UDP, port=n).new() for n in range(100)]
    place = raws[50].index(number(CTA_STATUS, "I", CONFIRMED))
    raws[50] = raws[50][: place + 2] + b"\x7f" + raws[50][place + 3 :]  # no type that is known
    size = len(raws[0])
    offsets, lengths = range(0, 100 * size, size), [size] * 100
    found = Decoder().read(Datagrams(7, False, bytearray(b"".join(raws)), offsets, lengths))
    assert [Event(*each).status for each in found] == [CONFIRMED] * 50 + [None] + [CONFIRMED] * 49
