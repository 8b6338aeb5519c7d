"""Certificates as the authority of a company makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tasks.tls.authority import alternatives

NOW = datetime.now(UTC)


@dataclass
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def secret(self, passphrase: str = "") -> str:
        how = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        form = PrivateFormat.TraditionalOpenSSL if not passphrase else PrivateFormat.PKCS8
        return str(self.key.private_bytes(Encoding.PEM, form, how).decode())


def make(
    name: str,
    issuer: Made | None = None,
    *,
    is_authority: bool = False,
    names: Sequence[str] = ("10.0.0.1",),
    days: tuple[int, int] = (-1, 90),
    purposes: Any = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    key: Any = None,
) -> Made:
    """A certificate as an authority of a company makes one."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(alternatives(names), critical=False)
    if not is_authority and purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    signer = issuer.key if issuer else key
    return Made(builder.sign(signer, SHA256()), key)


def own_files(directory: Path, addresses: Sequence[str]) -> list[dict[str, str]]:
    """Files of a company, and the settings of an estate that goes over to them and back.

    An authority, one between, and two certificates for all addresses, one after the other, as
    they come by mail: in no order.
    """
    root = make("Own root", is_authority=True)
    between = make("Own issuing authority", root, is_authority=True)
    steps = [{"tls_ca_certificate": str(directory / "root.pem")}]
    for number in (1, 2):
        leaf = make("own", between, names=addresses, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
        certificate, key = directory / f"own{number}.pem", directory / f"key{number}.pem"
        text = f"{leaf.pem}{root.pem}{between.pem}".replace("\n", "\r\n")
        certificate.write_bytes(text.encode())
        key.write_text(leaf.secret())
        key.chmod(0o600)
        steps.append({**steps[0], "tls_certificate": str(certificate), "tls_key": str(key)})
    (directory / "root.pem").write_text(root.pem)
    return [*steps, steps[0], {}]
