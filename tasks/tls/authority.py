"""The estate's certificate authority: made from a secret, the same wherever that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Dates of its own certificate: what depends on the day would be another authority the day after.
_BEGIN, _END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2044, 1, 1, tzinfo=UTC)
_VALID = timedelta(days=730)
# Clocks of hosts may be behind; one that is further off is refused (rules.py).
SLACK = timedelta(days=1)

_NAME = "Datatier authority "

# What a file raises that is no certificate or key which a server could use.
UNUSABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# The order of the group of P-256 (SEC 2, 2.4.2): a key is a number below it.
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Authority:
    """A key and the certificate that everyone may have.

    Attributes:
        text: the certificate as PEM.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    text: str

    def sign(self, public: bytes, names: Sequence[str], now: datetime) -> str:
        """A certificate for a server's key, as PEM.

        Args:
            public: the server's public key (DER); it says nothing else.
            names: the addresses and host names that the server may answer for.
        """
        key = load_der_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("is not a key of an elliptic curve")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - SLACK, _BEGIN))
            .not_valid_after(min(now + _VALID, _END))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
            .add_extension(alternatives(names), critical=False)
        )
        return _pem(builder.sign(self.key, SHA256()))


def is_estates(certificate: x509.Certificate) -> bool:
    """Whether it is of an authority that was made from a secret."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return any(str(each.value).startswith(_NAME) for each in names)


def has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether a certificate is of an authority."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except UNUSABLE:
        return False
    return True


@cache
def of(secret: str) -> Authority:
    """The authority of a secret."""
    drawn = HKDF(SHA256(), 48, salt=None, info=b"datatier tls authority").derive(secret.encode())
    key = ec.derive_private_key(int.from_bytes(drawn) % (_ORDER - 1) + 1, ec.SECP256R1())
    public = key.public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    identity = sha256(info).hexdigest()
    # Two of them in one file are told apart by name too.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME}{identity[:16]}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        # Positive, and of 20 bytes at most (RFC 5280, 4.1.2.2).
        .serial_number(int(identity[:30], 16) + 1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    certificate = builder.sign(key, SHA256(), ecdsa_deterministic=True)
    return Authority(key, certificate, _pem(certificate))


def alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """What a certificate is for."""
    return x509.SubjectAlternativeName([_general(name) for name in names])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(**chosen: bool) -> x509.KeyUsage:
    every = {
        "digital_signature": False,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": False,
        "crl_sign": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    return x509.KeyUsage(**{**every, **chosen})


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
