"""The Python filter against a table of flows; the BPF program against the Python filter."""

import contextlib
import ipaddress
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctk.conntrack.attributes import AF_INET
from ctk.conntrack.capture import Capture
from ctk.conntrack.decode import IPCTNL_MSG_CT_NEW, Decoder, Event
from ctk.conntrack.filters import EventFilter, Instruction, program
from ctk.conntrack.tuples import parse_tuples
from ctk.errors import UsageError
from ctk.model import FlowTuple

CAPTURES = Path(__file__).parents[1] / "fixtures" / "captures"


def run(instructions: Sequence[Instruction], message: bytes) -> int:
    """Run a classic BPF program over a netlink message as the kernel does; return its verdict."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        match code:
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0x60:
                a = memory[k]
            case 0x02:
                memory[k] = a
            case 0x20 if k == 0xFFFFF000 + 12:
                a = attribute(message, a, len(message), x)
            case 0x20 if k == 0xFFFFF000 + 16:
                size = struct.unpack_from("=H", message, a)[0]
                a = attribute(message, a + 4, a + size, x)
            case 0x30:
                a = message[k]
            case 0x40:
                a = int.from_bytes(message[x + k : x + k + 4], "big")
            case 0x48:
                a = int.from_bytes(message[x + k : x + k + 2], "big")
            case 0x50:
                a = message[x + k]
            case 0x54:
                a &= k
            case 0x07:
                x = a
            case 0x05:
                at += k
            case 0x15:
                at += jt if a == k else jf
            case 0x06:
                return k
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def attribute(message: bytes, at: int, end: int, wanted: int) -> int:
    while at + 4 <= end:
        size, kind = struct.unpack_from("=HH", message, at)
        if size < 4:
            return 0
        if kind & 0x3FFF == wanted:
            return at
        at += (size + 3) & ~3
    return 0


def flows() -> list[tuple[bytes, FlowTuple]]:
    """Every distinct message of the fixtures, with its flow."""
    found = {}
    for name in ("mixed", "node"):
        decoder = Decoder()
        with Capture(CAPTURES / f"{name}.ctkcap.gz") as capture:
            for batch in capture:
                messages = [
                    bytes(batch.buffer[offset : offset + length])
                    for offset, length in zip(batch.offsets, batch.lengths, strict=True)
                ]
                for message, values in zip(messages, decoder.read(batch), strict=True):
                    event = Event(*values)
                    found[event.orig, event.reply, event.zone] = (
                        message,
                        parse_tuples(event.orig, event.reply, event.zone),
                    )
    return list(found.values())


FLOWS = flows()
SOURCE, SERVICE, BACKEND = "10.244.0.21", "10.96.0.80", "10.244.0.11"
FLOW = next(
    flow
    for _, flow in FLOWS
    if (flow.src, flow.dst, flow.reply_src)
    == (bytes((10, 244, 0, 21)), bytes((10, 96, 0, 80)), bytes((10, 244, 0, 11)))
)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, True),
        ({"cidrs": [SOURCE]}, True),
        ({"cidrs": [SERVICE]}, True),
        ({"cidrs": [BACKEND]}, True),
        ({"cidrs": ["10.244.0.12"]}, False),
        ({"cidrs": ["192.0.2.0/24", "10.96.0.0/12"]}, True),
        ({"cidrs": ["0.0.0.0/0"]}, True),
        ({"cidrs": ["::/0"]}, False),
        ({"cidrs": ["10.0.0.0/8"], "exclude_cidrs": [SERVICE]}, False),
        ({"exclude_cidrs": ["::/0"]}, True),
        ({"exclude_cidrs": ["0.0.0.0/0"]}, False),
        ({"protocols": ["TCP"]}, True),
        ({"protocols": ["udp", "6"]}, True),
        ({"protocols": ["udp"]}, False),
        ({"ports": ["80"]}, True),
        ({"ports": ["8080"]}, True),
        ({"ports": ["81"]}, False),
        ({"ports": ["80"], "protocols": ["udp"]}, False),
    ],
)
def test_a_connection_from_a_pod_to_a_service_is_wanted(asked, wanted):
    assert EventFilter.parse(**asked).wants(FLOW) is wanted


ADDRESSES = sorted({a for _, flow in FLOWS for a in (flow.src, flow.dst, flow.reply_src)})
CIDRS = st.builds(
    lambda address, bits: f"{written(address)}/{bits % (8 * len(address) + 1)}",
    st.sampled_from(ADDRESSES) | st.binary(min_size=4, max_size=4),
    st.integers(0, 128),
)
FILTERS = st.builds(
    EventFilter.parse,
    cidrs=st.lists(CIDRS, max_size=4),
    exclude_cidrs=st.lists(CIDRS, max_size=2),
    protocols=st.lists(
        st.sampled_from(["tcp", "udp", "icmp", "icmpv6", "sctp", "47", "253"]), max_size=3
    ),
    ports=st.lists(st.sampled_from(["53", "80", "8080", "30080", "443", "5001"]), max_size=3),
)


def written(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


@given(FILTERS)
def test_the_program_keeps_what_python_wants(wanted):
    instructions = program(wanted)
    kept = [run(instructions, message) != 0 for message, _ in FLOWS]
    assert kept == [wanted.wants(flow) for _, flow in FLOWS]


def test_a_message_without_what_is_asked_about_is_kept():
    header = struct.pack("=IHHIIBBH", 20, IPCTNL_MSG_CT_NEW, 0, 0, 0, AF_INET, 0, 0)
    asked = EventFilter.parse(cidrs=["10.0.0.0/8"], protocols=["tcp"])
    assert run(program(asked), header) == 0xFFFFFFFF


@pytest.mark.parametrize(("cidrs", "fits"), [(300, True), (400, False)])
def test_a_filter_is_a_program_up_to_the_kernels_limit(cidrs, fits):
    asked = EventFilter.parse(cidrs=[f"10.{n // 256}.{n % 256}.0/24" for n in range(cidrs)])
    assert (program(asked) is not None) is fits


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cidrs": ["10.0.0.0/33"]}, "'10.0.0.0/33' is not an address or a CIDR"),
        ({"exclude_cidrs": ["pod"]}, "'pod' is not an address or a CIDR"),
        ({"protocols": ["tpc"]}, "'tpc' is not a protocol"),
        ({"protocols": ["256"]}, "'256' is not a protocol"),
        ({"ports": ["65536"]}, "'65536' is not a port"),
        ({"ports": ["http"]}, "'http' is not a port"),
    ],
)
def test_what_is_not_a_filter_is_one_line_with_a_hint(asked, message):
    with pytest.raises(UsageError) as raised:
        EventFilter.parse(**asked)
    assert raised.value.message == message
    assert raised.value.hint


@given(st.text(max_size=50), st.sampled_from(["cidrs", "exclude_cidrs", "protocols", "ports"]))
def test_any_text_is_a_filter_or_a_usage_error(text, option):
    with contextlib.suppress(UsageError):
        program(EventFilter.parse(**{option: [text]}))
