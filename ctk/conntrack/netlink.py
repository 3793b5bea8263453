"""
Netlink as it is on the wire: sockets, dump requests and the kernel's answers to them.

A plain AF_NETLINK socket does: a request is a header and a few bytes. What the kernel can be asked
for here is a dump, which changes nothing. (linux/netlink.h)
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Generator

from ctk.errors import SourceError
from ctk.model import Datagrams

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

# A dump that changed while it was made is made again, so often.
DUMP_ATTEMPTS = 5

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_NLM_F_REQUEST = 0x001
_NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR = 0x010
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_BUFFER_BYTES = 64 << 10  # the kernel fills at most 32 KiB a datagram
_TIMEOUT_S = 10


def open_socket(protocol: int) -> socket.socket:
    """Open a socket of this netlink protocol and bind it to a port that the kernel chooses."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def dump(protocol: int, kind: int, body: bytes, doing: str) -> Generator[Datagrams, None, None]:
    """
    Yield the answer to a dump request of type `kind`, a datagram of many messages at a time.

    The kernel makes a chunk when it is asked for, so a reader can do something else between two.
    A dump that the kernel calls inconsistent is made again, so a message may come twice. Errors
    are a SourceError which says that `doing` failed.
    """
    try:
        with open_socket(protocol) as sock:
            sock.settimeout(_TIMEOUT_S)
            for sequence in range(1, DUMP_ATTEMPTS + 1):
                flags = _NLM_F_REQUEST | _NLM_F_DUMP
                length = _NLMSGHDR.size + len(body)
                sock.send(_NLMSGHDR.pack(length, kind, flags, sequence, 0) + body)
                if (yield from _answer(sock, sequence)):
                    return
    except OSError as error:
        raise explained(error, doing) from error


def _answer(sock: socket.socket, sequence: int) -> Generator[Datagrams, None, bool]:
    """Yield the answer to the request of that number; return whether it was consistent."""
    buffer = bytearray(_BUFFER_BYTES)
    consistent = True
    while True:
        size, (sender, _) = sock.recvfrom_into(buffer)
        if sender != 0:  # another process may send to this port; the kernel's is 0
            continue
        at_ns = time.time_ns()
        offsets, lengths = [], []
        offset, done = 0, False
        while offset + _NLMSGHDR.size <= size:
            length, kind, flags, answered, _ = _NLMSGHDR.unpack_from(buffer, offset)
            if length < _NLMSGHDR.size or offset + length > size:
                break
            if answered == sequence:
                consistent = consistent and not flags & _NLM_F_DUMP_INTR
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    code = struct.unpack_from("=i", buffer, offset + _NLMSGHDR.size)[0]
                    if code < 0:
                        raise OSError(-code, os.strerror(-code))
                    done = True
                else:
                    offsets.append(offset)
                    lengths.append(length)
            offset += (length + 3) & ~3
        if offsets:
            yield Datagrams(at_ns, True, buffer, offsets, lengths)
        if done:
            return consistent


def explained(error: OSError, doing: str) -> SourceError:
    """Say what a person can do about `error`."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return SourceError(
            f"{doing} needs CAP_NET_ADMIN",
            hint="run it as root, or give a container the capability NET_ADMIN",
        )
    if error.errno in (errno.EINVAL, errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return SourceError(
            f"{doing} failed: this kernel has no conntrack netlink here ({error.strerror})",
            hint="modprobe nf_conntrack_netlink",
        )
    return SourceError(f"{doing} failed: {error.strerror or error}")
