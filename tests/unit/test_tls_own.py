"""Certificates of the user's own authority: what is refused, in one line, and what is used."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tasks.core.estate import Estate, Node
from tasks.tls import authority, certificates, own, rules
from tasks.tls.probes import AUTHORITY
from tests.authorities import Made, make
from tests.unit import helpers
from tests.unit.test_tls import SECRET, knows, openssl

NOW = datetime.now(UTC)
ADDRESS = "10.0.0.1"
HOST = "db1"


ROOT = make("Own root", is_authority=True)
BETWEEN = make("Own issuing authority", ROOT, is_authority=True)
LEAF = make("db1", BETWEEN)
CHAIN = LEAF.pem + BETWEEN.pem


def estate(
    directory: Path,
    *,
    trusted: str | None = ROOT.pem,
    certificate: str | None = CHAIN,
    key: str | None = None,
    **data: Any,
) -> Estate:
    """An estate of one host with these files."""
    (directory / ".env").write_text(f"TLS_CA_SECRET={SECRET}\n")
    (directory / ".env").chmod(0o600)
    secret = LEAF.secret() if key is None else key
    chosen = dict[str, Any]()
    for name, text in (("ca_certificate", trusted), ("certificate", certificate), ("key", secret)):
        if text is not None and not (name == "key" and certificate is None):
            (directory / f"{name}.pem").write_bytes(text.encode())
            (directory / f"{name}.pem").chmod(0o600)
            chosen[f"tls_{name}"] = f"{name}.pem"
    host = {"address": ADDRESS, "tls_enabled": True, **chosen, **data}
    return helpers.estate({HOST: host}, {"postgres": [HOST], "redis": [HOST]}, directory)


def refused(made: Estate) -> str:
    """The one line that a run ends with."""
    (problem,) = helpers.problems(made)
    return problem


EXPIRED = make("db1", BETWEEN, days=(-20, -3))
OTHER = make("db2", BETWEEN, names=("10.0.0.2", "db1"))
FOREIGN = make("db1", make("Foreign root", is_authority=True))
SHORT = rsa.generate_private_key(65537, 1024)
NO_CA = make("No authority", ROOT)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (EXPIRED, "'CN=db1' has expired on "),
        (make("db1", BETWEEN, days=(3, 9)), "'CN=db1' begins on "),
        (OTHER, f"is not for {ADDRESS}, which other hosts use"),
        (make("db1", BETWEEN, names=("db1",)), f"is not for {ADDRESS}, which other hosts use"),
        (FOREIGN, "certificate of 'CN=Foreign root' is neither in it nor in tls_ca_certificate"),
        (make("db1", NO_CA), "certificate of 'CN=No authority' is neither in it nor in"),
        (
            make("db1", BETWEEN, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]),
            "is for no server (extendedKeyUsage)",
        ),
    ],
)
def test_a_certificate_that_others_would_refuse_is_refused_here(
    made: Made, words: str, tmp_path: Path
) -> None:
    found = estate(tmp_path, certificate=made.pem + BETWEEN.pem + NO_CA.pem, key=made.secret())
    line = refused(found)
    assert line.startswith("db1: tls_certificate: certificate.pem") and words in line, line


def test_a_chain_with_a_hole_names_who_is_missing(tmp_path: Path) -> None:
    line = "is neither in it nor in tls_ca_certificate"
    assert f"'CN=Own issuing authority' {line}" in refused(estate(tmp_path, certificate=LEAF.pem))
    assert f"'CN=Own root' {line}" in refused(estate(tmp_path, trusted=BETWEEN.pem))
    with_root = CHAIN + ROOT.pem
    other = make("Other root", is_authority=True)
    assert refused(estate(tmp_path, trusted=other.pem, certificate=with_root)).endswith(
        "certificate.pem: its root 'CN=Own root' is not in tls_ca_certificate"
    )


def test_an_authority_that_is_over_is_refused(tmp_path: Path) -> None:
    old = make("Own root", is_authority=True, days=(-20, -3), key=ROOT.key)
    line = refused(estate(tmp_path, trusted=old.pem))
    assert line.startswith("db1: tls_ca_certificate: ca_certificate.pem: 'CN=Own root' has expired")


def test_a_key_that_servers_could_not_use_is_refused(tmp_path: Path) -> None:
    assert refused(estate(tmp_path, key=OTHER.secret())) == (
        "db1: tls_key: is not the key of certificate.pem, whose first certificate is the host's"
    )
    protected = refused(estate(tmp_path, key=LEAF.secret("a passphrase")))
    assert "key.pem has a passphrase, which no server could give: openssl pkey -in " in protected
    weak = make("db1", BETWEEN, key=SHORT)
    said = refused(estate(tmp_path, certificate=weak.pem + BETWEEN.pem, key=weak.secret()))
    assert "servers take RSA of 2048 bits or more" in said
    for text, words in (
        ("", "has no key in PEM"),
        (LEAF.pem, "has no key in PEM"),
        (LEAF.secret()[:60] + "\n-----END EC PRIVATE KEY-----", "has a key that cannot be read"),
    ):
        assert words in refused(estate(tmp_path, key=text))


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    found = estate(tmp_path)
    (tmp_path / "key.pem").chmod(mode)
    place = tmp_path / "key.pem"
    assert refused(found) == (
        f"db1: tls_key: {place}: mode {mode:o}: others can read the key; chmod 600 it"
    )


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "missing.pem is missing" in refused(estate(tmp_path, tls_certificate="missing.pem"))
    (tmp_path / "place").mkdir()
    assert "place is no file" in refused(estate(tmp_path, tls_key="place"))
    (tmp_path / "big").write_bytes(b" " * (1 << 21))
    assert "big is larger than 1 MB" in refused(estate(tmp_path, tls_ca_certificate="big"))
    assert "has no certificate in PEM" in refused(estate(tmp_path, trusted="no certificate"))


def test_one_key_without_the_others_is_refused(tmp_path: Path) -> None:
    alone = estate(tmp_path, trusted=None)
    assert refused(alone) == (
        "db1: tls_certificate: needs tls_ca_certificate, with which others verify it"
    )
    assert refused(estate(tmp_path, tls_key=None)) == (
        "db1: tls_certificate: goes with tls_key: state both"
    )


def test_all_hosts_trust_the_same(tmp_path: Path) -> None:
    (tmp_path / "first.pem").write_text(ROOT.pem)
    (tmp_path / "second.pem").write_text(FOREIGN.pem)
    hosts: dict[str, Any] = {
        name: {"address": address, "tls_enabled": True, "tls_ca_certificate": file}
        for name, address, file in (
            ("a", "10.0.0.1", "first.pem"),
            ("b", "10.0.0.2", "second.pem"),
        )
    }
    made = helpers.estate(hosts, {"redis": ["a", "b"]}, tmp_path)
    assert helpers.problems(made) == [
        "b: tls_ca_certificate: should hold the same on all hosts; a has another one"
    ]


@pytest.mark.parametrize(
    "text",
    [
        CHAIN,
        LEAF.pem + ROOT.pem + BETWEEN.pem,
        f"# from our authority\n{LEAF.pem}\n\nCN=issuing\n{BETWEEN.pem}",
        CHAIN.replace("\n", "\r\n"),
    ],
    ids=["as it is", "with the root", "with words", "of Windows"],
)
def test_servers_get_a_chain_in_order_without_its_root(text: str, tmp_path: Path) -> None:
    """However the files are written, and openssl takes what comes out."""
    crlf = ROOT.pem.replace("\n", "\r\n")
    key = LEAF.secret().replace("\n", "\r\n")
    node = estate(tmp_path, trusted=crlf, certificate=text, key=key).nodes[0]
    found = own.of(node)
    assert (found.problems, found.certificate, found.root) == ([], CHAIN, ROOT.pem)
    assert "\r" not in found.key and found.public == own._written(LEAF.key.public_key())
    for name, written in (("chain", found.certificate), ("root", found.root), ("k", found.key)):
        (tmp_path / name).write_text(written)
    chain, root = tmp_path / "chain", tmp_path / "root"
    said = openssl("verify", "-verify_ip", ADDRESS, "-CAfile", root, "-untrusted", chain, chain)
    assert said.endswith("chain: OK\n")
    assert "PUBLIC KEY" in openssl("pkey", "-in", tmp_path / "k", "-pubout")


def test_a_weak_signature_is_refused(tmp_path: Path) -> None:
    """Made by openssl: the library of this project refuses to."""
    texts = {"between.pem": BETWEEN.pem, "between.key": BETWEEN.secret(), "key": LEAF.secret()}
    for name, text in {**texts, "names": f"subjectAltName=IP:{ADDRESS}"}.items():
        (tmp_path / name).write_text(text)
    request = openssl("req", "-new", "-key", tmp_path / "key", "-subj", "/CN=db1")
    signer: list[str | Path] = ["-CA", tmp_path / "between.pem", "-CAkey", tmp_path / "between.key"]
    weak = openssl(
        *("x509", "-req", "-sha1", *signer, "-extfile", tmp_path / "names"), stdin=request
    )
    found = estate(tmp_path, certificate=weak + BETWEEN.pem)
    assert "'CN=db1' is too weak for servers" in refused(found)


# --- On hosts ------------------------------------------------------------------------------------

PATHS = ["/etc/datatier/tls/redis/certificate.pem", "/etc/datatier/tls/redis/key.pem"]


def node_of(directory: Path, name: str, **files: Any) -> Node:
    (directory / name).mkdir()
    return estate(directory / name, **files).nodes[0]


def test_both_are_written_together_and_then_nothing_is(tmp_path: Path) -> None:
    node = knows(estate(tmp_path).nodes[0])
    change = certificates.missing_own(node, "redis", "redis")
    assert change is not None and change.diff == []
    assert change.lines == [f"{path}: create" for path in (AUTHORITY, *PATHS)]
    assert own.of(node).key not in change.script
    assert certificates.fingerprint(node, "redis") == "-"
    known = certificates.trusted(node)
    there: dict[str, Any] = {"public": own.of(node).public, "access": "640 root:redis"}
    knows(node, CHAIN, known, **there)
    assert certificates.missing_own(node, "redis", "redis") is None
    assert certificates.fingerprint(node, "redis") not in ("", "-")
    assert certificates._renewed(node) is None and certificates._not_renewed(node) == [
        "tls_certificate: certificate.pem is yours to renew; then deploy"
    ]
    knows(node, CHAIN, known, **{**there, "access": "644 root:root"})
    change = certificates.missing_own(node, "redis", "redis")
    assert change and change.lines == [f"{PATHS[1]}: owner root:redis, mode 640"]
    knows(node, CHAIN, known, public=b"of another", access="640 root:redis")
    change = certificates.missing_own(node, "redis", "redis")
    assert change and change.lines == [f"{PATHS[1]}: change"]


def test_a_host_tries_what_it_is_to_show(tmp_path: Path) -> None:
    node = knows(estate(tmp_path).nodes[0])
    change = certificates.missing_own(node, "redis", "redis")
    assert change is not None
    for text, address, words in (
        (CHAIN, ADDRESS, ""),
        (CHAIN, "10.0.0.9", "IP address mismatch"),
        (FOREIGN.pem, ADDRESS, "unable to get"),
    ):
        told = {**change.variables, "OWN_CERTIFICATE": text, "address": address}
        done = helpers.shell(f"set -eu\n{_assigned(told)}{_script()}")
        assert (done.returncode, words in done.stderr) == (1 if words else 0, True), done.stderr
        assert done.stderr.startswith("tls_certificate: openssl refuses it: ") == bool(words)


def _assigned(values: dict[str, str]) -> str:
    names = ("OWN_CERTIFICATE", "OWN_ROOT", "address")
    return "".join(f"{name}='{values[name]}'\n" for name in names)


def _script() -> str:
    return (Path(certificates.__file__).parent / "shell" / "verify.sh").read_text()


def test_an_estate_goes_over_to_it_and_back_step_by_step(tmp_path: Path) -> None:
    """Trust first, then the certificate; the same on the way back. No step is left out."""
    before = node_of(tmp_path, "0", trusted=None, certificate=None)
    key = own._written(ec.generate_private_key(ec.SECP256R1()).public_key())
    there: dict[str, Any] = {"public": key, "access": "640 root:redis"}
    leaf = authority.of(SECRET).sign(key, certificates.names(before), NOW)
    old = certificates.trusted(before)

    early = knows(node_of(tmp_path, "early"), leaf, old, **there)
    assert [str(each) for each in rules.checks(early)] == [
        f"db1: tls_certificate: deploy once without it: {AUTHORITY} here does not have its root yet"
    ]
    trusting = knows(node_of(tmp_path, "1", certificate=None), leaf, old, **there)
    assert rules.checks(trusting) == []
    change = certificates.missing_certificate(trusting, "redis")
    assert change is not None and change.lines == [f"{AUTHORITY}: change"]
    both = certificates.trusted(trusting)
    assert both == old + ROOT.pem

    shown = knows(node_of(tmp_path, "2"), leaf, both, **there)
    assert rules.checks(shown) == [] and certificates.is_trusted(shown, both)
    assert not certificates.is_trusted(shown, old)
    change = certificates.missing_own(shown, "redis", "redis")
    assert change is not None and change.lines == [f"{path}: change" for path in PATHS]

    mine: dict[str, Any] = {"public": own.of(shown).public, "access": "640 root:redis"}
    forgot = knows(node_of(tmp_path, "forgot", trusted=None, certificate=None), CHAIN, both, **mine)
    (problem,) = rules.checks(forgot)
    assert str(problem).startswith("db1: tls_ca_certificate: should have 'CN=Own root'"), problem
    back = knows(node_of(tmp_path, "3", certificate=None), CHAIN, both, **mine)
    assert rules.checks(back) == [] and certificates.missing_key(back, "redis", "redis")
    gone = knows(node_of(tmp_path, "4", trusted=None, certificate=None), leaf, both, **there)
    assert rules.checks(gone) == []


def test_addresses_of_both_families_are_covered() -> None:
    for address in ("10.0.0.1", "fd00::2"):
        leaf = make("x", ROOT, names=(address,)).certificate
        assert own._covers(leaf, str(ip_address(address)))
