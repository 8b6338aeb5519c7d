"""Certificates of the user's own authority: files of this machine, checked before they are used."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tasks.core import hide
from tasks.core.estate import Estate, Node
from tasks.core.settings import Problem
from tasks.tls.authority import UNUSABLE, has_signed
from tasks.tls.settings import TlsSettings

CA, CERTIFICATE, KEY = "tls_ca_certificate", "tls_certificate", "tls_key"

_LARGEST = 1 << 20
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
# What servers of both releases refuse at their security level.
_SHORTEST_RSA, _WEAK_HASHES = 2048, ("md5", "sha1")


@dataclass
class Own:
    """What the files of a host hold.

    Attributes:
        authorities: those of `tls_ca_certificate`, as PEM.
        certificate: the host's and those between it and the root, as PEM; empty where it has none.
        root: the authority at the end, as PEM.
        key: as PEM, without a passphrase.
        public: its public half (DER).
        problems: what is wrong with the files.
    """

    authorities: list[str] = field(default_factory=list)
    certificate: str = ""
    root: str = ""
    key: str = field(default="", repr=False)
    public: bytes = b""
    problems: list[Problem] = field(default_factory=list)


_known: WeakKeyDictionary[Node, Own] = WeakKeyDictionary()


def of(node: Node) -> Own:
    """What the files of a host hold: what was checked is what is used."""
    if node not in _known:
        _known[node] = _read(node)
    return _known[node]


def problems(everything: Estate) -> Iterator[Problem]:
    """What is wrong with the files of all hosts."""
    nodes = everything.having(TlsSettings)
    for node in nodes:
        yield from of(node).problems
        if of(node).authorities != of(nodes[0]).authorities:
            message = f"should hold the same on all hosts; {nodes[0].name} has another one"
            yield Problem(node.name, CA, message)


class _WrongFile(Exception):
    """What is wrong with the file of a key, in the words of a Problem."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _read(node: Node) -> Own:
    found = Own()
    try:
        _fill(node, found)
    except _WrongFile as wrong:
        found.problems.append(Problem(node.name, wrong.key, str(wrong)))
    return found


def _fill(node: Node, found: Own) -> None:
    chosen = node.the(TlsSettings)
    if (chosen.certificate is None) != (chosen.key is None):
        there, missing = (KEY, CERTIFICATE) if chosen.certificate is None else (CERTIFICATE, KEY)
        raise _WrongFile(there, f"goes with {missing}: state both")
    if chosen.ca_certificate is None:
        if chosen.certificate is not None:
            raise _WrongFile(CERTIFICATE, f"needs {CA}, with which others verify it")
        return
    known = _certificates(node, CA, chosen.ca_certificate)
    found.authorities = [_pem(each) for each in known]
    for each in known:
        _require_valid(CA, chosen.ca_certificate, each)
    if chosen.certificate is None or chosen.key is None:
        return
    key = _private_key(node, chosen.key)
    path = _path(_certificates(node, CERTIFICATE, chosen.certificate), known, chosen.certificate)
    _require_fit(node, path, key, chosen.certificate)
    found.certificate = "".join(
        _pem(each) for each in path if not _is_root(each) or each is path[0]
    )
    found.root = _pem(path[-1])
    found.public = _written(key.public_key())
    found.key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    hide.secret(*found.key.splitlines()[1:-1])


# --- Files ---------------------------------------------------------------------------------------


def _content(node: Node, key: str, name: str) -> tuple[Path, bytes]:
    path = node.estate.secrets.path.parent / Path(name).expanduser()
    try:
        if not path.is_file():
            raise _WrongFile(key, f"{path} is no file" if path.exists() else f"{path} is missing")
        if path.stat().st_size > _LARGEST:
            raise _WrongFile(key, f"{path} is larger than 1 MB: that is no certificate")
        return path, path.read_bytes()
    except OSError as error:
        raise _WrongFile(key, f"{path} cannot be read: {error.strerror}") from error


def _certificates(node: Node, key: str, name: str) -> list[x509.Certificate]:
    path, content = _content(node, key, name)
    try:
        found = x509.load_pem_x509_certificates(content)
        # Some of what is wrong with one shows only when it is used.
        for each in found:
            _ = each.extensions, each.signature_hash_algorithm, _written(each.public_key())
    except UNUSABLE as error:
        raise _WrongFile(key, f"{path} has no certificate in PEM that can be read") from error
    return found


def _private_key(node: Node, name: str) -> Any:
    path, content = _content(node, KEY, name)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _WrongFile(KEY, f"{path}: mode {mode:o}: others can read the key; chmod 600 it")
    match = _KEY.search(content)
    if not match:
        raise _WrongFile(KEY, f"{path} has no key in PEM")
    try:
        key: Any = load_pem_private_key(match[0], None)
    except TypeError as error:
        message = f"{path} has a passphrase, which no server could give: openssl pkey -in {path}"
        raise _WrongFile(KEY, message) from error
    except UNUSABLE as error:
        raise _WrongFile(KEY, f"{path} has a key that cannot be read") from error
    if not _is_strong(key.public_key()):
        message = (
            f"{path}: servers take RSA of {_SHORTEST_RSA} bits or more, P-256, P-384 and P-521"
        )
        raise _WrongFile(KEY, message)
    return key


# --- What servers and clients would say of them --------------------------------------------------


def _path(
    found: Sequence[x509.Certificate], known: Sequence[x509.Certificate], name: str
) -> list[x509.Certificate]:
    """The certificate, those between, and the root at the end."""
    path = [found[0]]
    while not _is_root(path[-1]):
        _require_strong(path[-1], name)
        issuers = [each for each in (*known, *found) if _may_sign(each) and each not in path]
        above = next((each for each in issuers if has_signed(each, path[-1])), None)
        if above is None:
            issuer = path[-1].issuer.rfc4514_string()
            message = f"{name}: the certificate of {issuer!r} is neither in it nor in {CA}"
            raise _WrongFile(CERTIFICATE, message)
        path.append(above)
    if path[-1] not in known:
        root = path[-1].subject.rfc4514_string()
        raise _WrongFile(CERTIFICATE, f"{name}: its root {root!r} is not in {CA}")
    return path


def _require_fit(node: Node, path: Sequence[x509.Certificate], key: Any, name: str) -> None:
    """Raises unless others would take what a host shows for that host."""
    leaf = path[0]
    if _written(leaf.public_key()) != _written(key.public_key()):
        raise _WrongFile(KEY, f"is not the key of {name}, whose first certificate is the host's")
    for each in path:
        _require_valid(CERTIFICATE, name, each)
    if not _covers(leaf, node.address):
        raise _WrongFile(CERTIFICATE, f"{name} is not for {node.address}, which other hosts use")
    _require_usage(leaf, name)


def _require_strong(each: x509.Certificate, name: str) -> None:
    algorithm = each.signature_hash_algorithm
    if (algorithm and algorithm.name in _WEAK_HASHES) or not _is_strong(each.public_key()):
        subject = each.subject.rfc4514_string()
        raise _WrongFile(CERTIFICATE, f"{name}: {subject!r} is too weak for servers")


def _require_valid(key: str, name: str, each: x509.Certificate) -> None:
    now, subject = datetime.now(UTC), each.subject.rfc4514_string()
    if each.not_valid_after_utc < now:
        message = f"{name}: {subject!r} has expired on {each.not_valid_after_utc:%Y-%m-%d}"
        raise _WrongFile(key, message)
    if each.not_valid_before_utc > now:
        message = f"{name}: {subject!r} begins on {each.not_valid_before_utc:%Y-%m-%d}"
        raise _WrongFile(key, message)


def _require_usage(leaf: x509.Certificate, name: str) -> None:
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if purposes is not None and allowed.isdisjoint(purposes):
        raise _WrongFile(CERTIFICATE, f"{name} is for no server (extendedKeyUsage)")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise _WrongFile(CERTIFICATE, f"{name} may not sign (keyUsage without digitalSignature)")


def _covers(leaf: x509.Certificate, address: str) -> bool:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        return False
    try:
        return ip_address(address) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        return address.lower() in map(str.lower, names.get_values_for_type(x509.DNSName))


def _may_sign(each: x509.Certificate) -> bool:
    constraints, usage = _extension(each, x509.BasicConstraints), _extension(each, x509.KeyUsage)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)


def _is_root(each: x509.Certificate) -> bool:
    return each.subject == each.issuer and has_signed(each, each)


def _is_strong(key: Any) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _SHORTEST_RSA
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES


def _extension(each: x509.Certificate, kind: Any) -> Any:
    try:
        return each.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _written(public: Any) -> bytes:
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
