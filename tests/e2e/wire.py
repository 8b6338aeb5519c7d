"""What who listens on the network of a lab can read of what its hosts tell each other."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.lab import Lab
from tests.lab.network import network_name
from tests.lab.process import docker

# linux/if_packet.h and linux/if_ether.h; Python's socket module has no names for them.
_ALL, _IPV4, _STATISTICS = 3, 0x0800, 6
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_BUFFER = 64 << 20
# What six hosts tell each other in one module, several times over.
_MOST = 1 << 30

Flow = tuple[str, int, str, int]


@dataclass
class Wire:
    """All that hosts of one lab have told each other by TCP and UDP since it was begun.

    Attributes:
        told: by sender, its port, receiver and its port.
        lost: how many frames the kernel could not keep for us, until the last quiet moment.
    """

    told: dict[Flow, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    lost: int = 0

    def ports(self) -> set[int]:
        """The ports of both ends of all that was told."""
        return {port for flow in list(self.told) for port in (flow[1], flow[3])}

    def readable(self, words: Iterable[str]) -> dict[str, list[Flow]]:
        """Which of these words can be read, and between whom."""
        told = list(self.told.items())
        found = {word: [flow for flow, text in told if word.encode() in text] for word in {*words}}
        return {word: flows for word, flows in found.items() if flows}

    def take(self, frame: bytes, outside: str) -> None:
        """A frame of Ethernet, unless one of its ends is outside the lab."""
        if len(frame) < 34 or int.from_bytes(frame[12:14]) != _IPV4:
            return
        begin = 14 + (frame[14] & 15) * 4
        end = 14 + int.from_bytes(frame[16:18])
        sender, receiver = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        protocol = frame[23]
        if outside in (sender, receiver) or protocol not in (6, 17):
            return
        head = frame[begin + 12] >> 4 << 2 if protocol == 6 else 8
        ports = struct.unpack("!HH", frame[begin : begin + 4])
        # A frame that the kernel is to cut later may have no length of its own.
        payload = frame[begin + head : end if end > 14 else len(frame)]
        if payload:
            self.told[sender, ports[0], receiver, ports[1]] += payload


@contextmanager
def listening(lab: Lab) -> Iterator[Wire]:
    """Takes every frame on the network of a lab until the block ends."""
    # Without a protocol until it is bound: it would hear every other interface before that.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        name = _bridge(lab)
        listener.bind((name, _ALL))
        # Else a bridge tells only what is for this machine.
        everything = struct.pack("iHH8s", socket.if_nametoindex(name), _PROMISCUOUS, 0, b"")
        listener.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, everything)
        listener.settimeout(0.5)
        wire, done = Wire(), threading.Event()
        worker = threading.Thread(target=_listen, args=(listener, wire, lab.gateway, done))
        worker.start()
        try:
            yield wire
        finally:
            done.set()
            worker.join()


def _listen(listener: socket.socket, wire: Wire, outside: str, done: threading.Event) -> None:
    size = 0
    while not done.is_set():
        try:
            frame = listener.recv(1 << 17)
        except TimeoutError:
            _, lost = struct.unpack("II", listener.getsockopt(_SOL_PACKET, _STATISTICS, 8))
            wire.lost += lost
            continue
        size += len(frame)
        wire.take(frame, outside)
        assert size < _MOST, "hosts have told each other more than is kept"


def _bridge(lab: Lab) -> str:
    """The interface of this machine that all of a lab's hosts are plugged into."""
    (network,) = json.loads(docker("network", "inspect", network_name(lab.name)).stdout)
    return f"br-{network['Id'][:12]}"
