"""Certificates of services: the host makes the key, this machine signs, other rooms use them.

A host tells its public key and nothing else; for which addresses and names its certificate is,
the inventory says. Where there are files of the user's own, these are used as they are (own.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tasks.core import files, hide
from tasks.core.change import Change, Trial, converge
from tasks.core.estate import Estate, Node
from tasks.core.files import Directory, Entry, File, Found
from tasks.core.remote import Unreadable
from tasks.core.scripts import quoted, shell
from tasks.tls import authority, own
from tasks.tls.authority import UNUSABLE, Authority
from tasks.tls.probes import AUTHORITY, ROOT, SERVICES, Key, home, places
from tasks.tls.settings import FURTHER_SECRET, SECRET, TlsSettings

# In a plan: what the run is about to make.
_TO_COME = "-"


def is_on(node: Node) -> bool:
    """Whether servers of a host have certificates of the estate's authority."""
    return TlsSettings in node.settings


def is_shown(node: Node) -> bool:
    """Whether servers show certificates of the authority, at least where their host publishes."""
    return is_on(_carrier(node))


def _carrier(node: Node) -> Node:
    """The host that has the keys: of a container the one around it."""
    return node.estate.outside or node


def key_file(service: str, node: Node | None = None) -> str:
    """Where a service's key is."""
    return f"{home(service, node)}/key.pem"


def certificate_file(service: str, node: Node | None = None) -> str:
    """Where a service's certificate is."""
    return f"{home(service, node)}/certificate.pem"


def signing(estate: Estate) -> Authority:
    """The authority that signs."""
    return authority.of(estate.secrets.get(SECRET))


def authorities(estate: Estate) -> list[Authority]:
    """All that are trusted; the first one signs."""
    further = estate.secrets.find(FURTHER_SECRET)
    hide.secret(*filter(None, [further]))
    return [signing(estate), *([authority.of(further)] if further else [])]


def is_trusted(node: Node, text: str) -> bool:
    """Whether those who trust what is in a text take a certificate of this host."""
    return (own.of(node).root or signing(node.estate).text).strip() in text


def trusted(node: Node) -> str:
    """The content of `AUTHORITY`; empty where hosts have no certificates."""
    if not is_on(node):
        return ""
    mine = [each.text for each in authorities(node.estate)]
    return "".join([*mine, *own.of(node).authorities])


def names(node: Node) -> list[str]:
    """The addresses and host names that a certificate of a host is for."""
    name = node.plain_name
    is_name = re.fullmatch(r"(?i)(?!.*\.[\d.]*$)(?!-)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*", name)
    return [
        *dict.fromkeys([node.address, "127.0.0.1", "::1"]),
        *([name.lower()] if is_name and not name.isdigit() else []),
    ]


# --- What a host should have ---------------------------------------------------------------------


def certify(node: Node, service: str, group: str) -> None:
    """Gives a service its key and certificate, on a host that has certificates.

    Args:
        group: who may read the key besides root.
    """
    if not is_on(node):
        return
    if own.of(node).key:
        converge(f"TLS: certificate of {service}", lambda: missing_own(node, service, group))
        return
    converge(f"TLS: key of {service}", lambda: missing_key(node, service, group))
    converge(f"TLS: certificate of {service}", lambda: missing_certificate(node, service))


def missing_authority(node: Node) -> Change | None:
    """The certificate of the authority, for those who verify."""
    return files.compare(_pending(node, _authority(node)), _found(node))


def missing_key(node: Node, service: str, group: str) -> Change | None:
    """A service's key, made on its host, which it never leaves.

    Args:
        group: who may read it besides root.
    """
    key, place = _key(node, service), key_file(service, node)
    if key.access == f"640 root:{group}" and _is_fit(key):
        return None
    line = f"{place}: owner root:{group}, mode 640" if _is_fit(key) else f"{place}: create"
    keep = "1" if _is_fit(key) else ""
    place_of_it = _pending(node, [*_directories(), *places(node, service)])
    there = files.compare(place_of_it, _found(node))
    change = Change(
        [line], shell("make-key", "tls", keys=home(service, node), group=group, keep=keep)
    )
    return there.followed_by(change) if there else change


def missing_own(node: Node, service: str, group: str) -> Change | None:
    """Key and certificate of the user's own, written together: servers need a pair.

    Args:
        group: who may read the key besides root.
    """
    mine, key, place = own.of(node), _key(node, service), key_file(service, node)
    # The key is not read; who has the public half has it.
    content = mine.key.encode() if key.public == mine.public else b""
    mode, _, owner = key.access.partition(" ")
    there = Found("file" if mode else "absent", mode, *owner.partition(":")[::2], content)
    entries = [
        *_pending(node, [*_authority(node), *places(node, service)]),
        File(certificate_file(service, node), mine.certificate),
        File(place, mine.key, "640", group=group),
    ]
    change = files.compare(entries, {**_found(node), place: there})
    if change is None:
        return None
    told = {"OWN_CERTIFICATE": mine.certificate, "OWN_ROOT": mine.root}
    trial = Trial(shell("verify", "tls", address=node.address), told)
    return replace(change, diff=[]).after([trial])


def missing_certificate(node: Node, service: str) -> Change | None:
    """A service's certificate, and the authority's beside it.

    Raises:
        Unreadable: (during a run) there is no key.
    """
    return _signed(node, [service])


def _signed(node: Node, services: Sequence[str]) -> Change | None:
    """The certificates of services, those that are due signed again."""
    found, why, signed = _found(node), dict[str, str](), list[Entry]()
    for service in services:
        path = certificate_file(service, node)
        why[path] = "; ".join(_why_due(node, _key(node, service), found[path]))
        text = _text(node, service) if why[path] else found[path].content.decode()
        signed.append(File(path, text))
    above = [place for service in services for place in places(node, service)]
    entries = {entry.path: entry for entry in [*_authority(node), *above]}
    change = files.compare([*_pending(node, [*entries.values()]), *signed], found)
    return change and replace(change, lines=[_because(line, why) for line in change.lines], diff=[])


def _because(line: str, why: Mapping[str, str]) -> str:
    """A sentence of the plan, of a certificate with the reason."""
    path = line.partition(": ")[0]
    return f"{path}: {why[path]}" if why.get(path) else line


def _text(node: Node, service: str) -> str:
    """A new certificate."""
    key = _key(node, service)
    if _is_fit(key):
        return signing(node.estate).sign(key.public, names(node), datetime.now(UTC))
    if node.host.state.is_executing:
        raise Unreadable(f"{key_file(service, node)} is missing: run again")
    return _TO_COME


_planned: WeakKeyDictionary[Node, set[str]] = WeakKeyDictionary()


def _pending(node: Node, entries: Sequence[Entry]) -> list[Entry]:
    """Those that are due; a plan names once what the first of several operations makes."""
    found, planned = _found(node), _planned.setdefault(node, set())
    pending = [entry for entry in entries if files.compare([entry], found)]
    if not node.host.state.is_executing:
        pending = [entry for entry in pending if entry.path not in planned]
        planned.update(entry.path for entry in pending)
    return pending


def fingerprint(node: Node, service: str) -> str:
    """What a running server should have loaded: its certificate, and whom it trusts."""
    node = _carrier(node)
    if not is_on(node):
        return ""
    now = _found(node)[certificate_file(service, node)]
    is_due = any(_why_due(node, _key(node, service), now))
    is_planned = is_due and not node.host.state.is_executing
    return (
        _TO_COME
        if is_planned
        else files.digest(now.content.decode(errors="replace"), trusted(node))
    )


def shows(node: Node, service: str, place: str, protocol: str, configuration: str) -> str:
    """Shell that fails unless a running server shows its certificate.

    Args:
        place: where it listens.
        protocol: in which TLS is asked for, such as `postgres`; empty where it begins at once.
        configuration: the file that names the certificate, if the server is to show it.
    """
    words = quoted(certificate_file(service, node), place, protocol, configuration)
    return f"\n{shell('shows', 'tls')}shows {words}"


def renew(node: Node) -> None:
    """Signs a new certificate for each service of a host that has one."""
    _asked.add(node)
    converge("TLS: certificates", lambda: _renewed(node), notices=lambda: _not_renewed(node))


def _not_renewed(node: Node) -> list[str]:
    chosen = node.the(TlsSettings).certificate
    return [f"{own.CERTIFICATE}: {chosen} is yours to renew; then deploy"] if chosen else []


def _renewed(node: Node) -> Change | None:
    if own.of(node).key:
        return None
    found = _found(node)
    return _signed(node, [s for s in SERVICES if found[certificate_file(s, node)].kind == "file"])


# Whose certificates are renewed although they are not due.
_asked: WeakSet[Node] = WeakSet()


def _authority(node: Node) -> list[Entry]:
    return [*_directories(), File(AUTHORITY, trusted(node))]


def _directories() -> list[Entry]:
    return [Directory("/etc/datatier"), Directory(ROOT)]


def _found(node: Node) -> dict[str, Found]:
    found: dict[str, Found] = node.read("tls")["files"]
    return found


def _key(node: Node, service: str) -> Key:
    found: Key = node.read("tls")["keys"].get(service, Key())
    return found


def _is_fit(key: Key) -> bool:
    try:
        public = load_der_public_key(key.public)
    except UNUSABLE:
        return False
    is_ours = isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    # Servers refuse a curve that is written out, not named.
    return is_ours and _written(public) == key.public


def _written(public: Any) -> bytes:
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


# --- Whether a certificate is what it should be --------------------------------------------------


def chain(now: Found) -> list[x509.Certificate]:
    """The certificates in a file that was found; none where it cannot be read."""
    try:
        return x509.load_pem_x509_certificates(now.content)
    except UNUSABLE:
        return []


def _why_due(node: Node, key: Key, now: Found) -> list[str]:
    """Why another certificate takes the place of what was found."""
    if now.kind == "absent":
        return ["create"]
    if mine := own.of(node).certificate:
        is_there = now.content == mine.encode() and key.public == own.of(node).public
        return [] if is_there else [f"change to the file of {own.CERTIFICATE}"]
    try:
        return [*_differences(node, key, x509.load_pem_x509_certificate(now.content))]
    except UNUSABLE:
        return ["create again; it cannot be read"]


def _differences(node: Node, key: Key, certificate: x509.Certificate) -> Iterator[str]:
    if _written(certificate.public_key()) != key.public:
        yield "sign again for another key"
    if not authority.has_signed(signing(node.estate).certificate, certificate):
        yield "sign again by the estate's authority"
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if found != authority.alternatives(names(node)):
        yield f"sign again for {', '.join(names(node))}"
    yield from ["renew"] if node in _asked else _out_of_time(certificate, _renew_days(node))


def _renew_days(node: Node) -> int:
    return node.the(TlsSettings).renew_days


def _out_of_time(certificate: x509.Certificate, renew_days: int) -> Iterator[str]:
    now = datetime.now(UTC)
    left = certificate.not_valid_after_utc - now
    if left < timedelta(days=renew_days):
        yield f"renew ({left.days} days left)" if left > timedelta() else "renew (it has expired)"
    elif certificate.not_valid_before_utc > now:
        yield "renew (it begins in the future)"
