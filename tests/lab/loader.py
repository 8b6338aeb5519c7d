"""Debian's dynamic loader, which knows what it would ask the processor at every start.

Each program that a host starts asks dozens of times what the processor is and has, and a virtual
machine takes 8 µs for an answer: three fifths of what a small program takes on Debian 12, a third
on 13. All answers end in one structure, and they are the same for each program. Here the function
that asks writes what a program of this machine had in there; nothing else changes.
"""

import re
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.lab.archive import Entry
from tests.lab.process import docker

PATH = Path("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
# Perl, which every Debian has: where the loader of its own process is, and what is there.
DUMP = r"""
open my $maps, "<", "/proc/self/maps";
my ($begin, $end);
while (<$maps>) {
  if (m{^(\w+)-(\w+) .*/ld-linux-x86-64\.so\.2$}) { $begin //= hex $1; $end = hex $2; }
}
open my $memory, "<:raw", "/proc/self/mem";
seek $memory, $begin, 0;
read $memory, my $is, $end - $begin;
printf "%x %s", $begin, unpack "H*", $is;
"""
# mov features.kind, %eax; test; je; ret; nop; jmp to the function that asks: __get_cpu_features()
_CALLS = re.compile(rb"\x8b\x05(.{4})\x85\xc0\x74\x06\xc3\x0f\x1f\x44\0\0\xe9(.{4})", re.DOTALL)
# push %r15; xor %eax, %eax; push %r14 ...: init_cpu_features()
_ASKS = bytes.fromhex("4157 31c0 4156 4155 4154 55 53 4881ec")
# What it writes: all of the features, which are larger in newer versions, and places beside them:
# name of the platform, size of a signal's stack, capabilities, and functions that save registers.
_SIZES = {b" version 2.36.": 0x1E0, b" version 2.41.": 0x210}
_BESIDE = {
    b" version 2.36.": (-0x68, -0x50, -0x10),
    b" version 2.41.": (-0x68, -0x50, -0x10, 0x230, 0x238),
}
# sub size(%rip), %rsp: how much they save.
_SAVED = re.compile(rb"\x48\x2b\x25(.{4})", re.DOTALL)
# The number of the processor that a program was on.
_ON = 0x1B
# And the limits that `--list-tunables` shows.
_TUNABLE, _TUNABLE_SIZE = re.compile(rb"glibc\.cpu\.x86_\w+_(size|threshold)\0"), 112
# lea words(%rip), %rsi; lea start(%rip), %rdi; mov count, %ecx
_BEGIN = (bytes.fromhex("488d35"), bytes.fromhex("488d3d"), bytes.fromhex("b9"))
# mov (%rsi), %eax; mov 4(%rsi), %rdx; mov %rdx, (%rdi, %rax); add $12, %rsi; dec %ecx; jne
_LOOP = bytes.fromhex("8b06 488b5604 48891407 4883c60c ffc9 75ee")
# lea target(%rip), %rax; mov %rax, place(%rip)
_POINTER = (bytes.fromhex("488d05"), bytes.fromhex("488905"))
_RETURN = bytes.fromhex("c3")

_of_images: dict[str, list[Entry]] = {}


def files(image: str, container: str) -> list[Entry]:
    """The loader for a container of this image; none if its own is left as it is."""
    if image not in _of_images:
        with tempfile.TemporaryDirectory(prefix="datatier-lab-") as directory:
            docker("cp", f"{container}:{PATH}", directory)
            loader = Path(directory, PATH.name).read_bytes()
        _of_images[image] = []
        if places_of(loader):
            dump = docker("run", "--rm", "--entrypoint", "perl", image, "-e", DUMP).stdout
            _of_images[image] = [Entry(str(PATH), knowing(loader, dump), 0o755)]
    return _of_images[image]


def knowing(loader: bytes, dump: str) -> bytes:
    """The loader with the answers in it.

    Args:
        loader: one that is known.
        dump: what DUMP says of a program that it has loaded.
    """
    known = places_of(loader)
    assert known
    features, asks = known
    start, text = dump.split()
    base, memory = int(start, 16), bytearray.fromhex(text)
    memory[features + _ON] = 0
    places = _written(loader, memory, features)
    words = {at: int.from_bytes(memory[at : at + 8], "little") for at in places}
    pointers = {at: word - base for at, word in words.items() if 0 <= word - base < len(memory)}
    # Other addresses are the kernel's word, and of that program alone.
    plain = {at: word for at, word in words.items() if at not in pointers and word >> 40 != 0x7F}
    size = sum(len(part) + 4 for part in _BEGIN) + len(_LOOP + _RETURN)
    size += len(pointers) * sum(len(part) + 4 for part in _POINTER)
    code = b""
    for part, target in zip(_BEGIN, (asks + size, 0), strict=False):
        code += part + _distance(asks + len(code) + len(part), target)
    code += _BEGIN[-1] + struct.pack("<I", len(plain)) + _LOOP
    for at, pointer in pointers.items():
        for part, target in zip(_POINTER, (pointer, at), strict=True):
            code += part + _distance(asks + len(code) + len(part), target)
    code += _RETURN + b"".join(struct.pack("<IQ", at, word) for at, word in plain.items())
    return loader[:asks] + code + loader[asks + len(code) :]


def places_of(loader: bytes) -> tuple[int, int] | None:
    """Where the features are, and the function that asks; nothing if this loader is not known.

    In this file a place is an address.
    """
    found = [*_CALLS.finditer(loader)]
    if len(found) != 1 or not _version(loader):
        return None
    features = found[0].start(1) + 4 + struct.unpack("<i", found[0][1])[0]
    asks = found[0].end() + struct.unpack("<i", found[0][2])[0]
    return (features, asks) if loader.startswith(_ASKS, asks) else None


def _version(loader: bytes) -> bytes:
    return next((version for version in _SIZES if version in loader), b"")


def _written(loader: bytes, memory: bytearray, features: int) -> Iterator[int]:
    """Where that function has written, in words of eight bytes."""
    version = _version(loader)
    ranges = [(features, _SIZES[version]), *((features + at, 8) for at in _BESIDE[version])]
    ranges += [(found.start(), _TUNABLE_SIZE) for found in _TUNABLE.finditer(loader)]
    for begin, size in ranges:
        for at in range(begin, begin + size, 8):
            if memory[at : at + 8] != loader[at : at + 8]:
                yield at
    for found in _SAVED.finditer(loader):
        yield found.end() + struct.unpack("<i", found[1])[0]


def _distance(begin: int, target: int) -> bytes:
    """As an instruction has it whose last four bytes this is."""
    return struct.pack("<i", target - begin - 4)
