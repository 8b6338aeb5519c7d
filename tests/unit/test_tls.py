"""The estate's authority and its certificates, verified by openssl, which others use too."""

from __future__ import annotations

import base64
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.compose.files import project_files
from tasks.compose.project import compose_file
from tasks.core.estate import Estate, Node
from tasks.core.files import Found
from tasks.core.remote import Unreadable
from tasks.core.scripts import shell
from tasks.core.secrets import Secrets
from tasks.postgres import link
from tasks.postgres.settings import PostgresSettings
from tasks.redis import tls as redis_tls
from tasks.redis.settings import RedisSettings
from tasks.tls import __main__ as printed
from tasks.tls import authority, certificates, probes, rules
from tasks.tls.probes import AUTHORITY, Key
from tests.unit import helpers

SECRET = "authority-Secret-10-of-all-tests"
NOW = datetime.now(UTC)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=12, max_size=200)
NAMES = ["10.0.0.1", "127.0.0.1", "::1", "db1.example.com"]


def public(key: Any = None) -> bytes:
    made = (key or ec.generate_private_key(ec.SECP256R1())).public_key()
    return bytes(made.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def openssl(*words: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        ["openssl", *map(str, words)], input=stdin, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def verified(directory: Path, trusted: str, certificate: str, *words: str) -> str:
    """What openssl says of a certificate, by who is trusted."""
    (directory / "ca.pem").write_text(trusted)
    (directory / "leaf.pem").write_text(certificate)
    place = directory / "leaf.pem"
    return openssl("verify", "-x509_strict", "-CAfile", directory / "ca.pem", *words, place)


@given(secret=PRINTABLE, other=PRINTABLE)
def test_one_secret_is_one_authority(secret: str, other: str) -> None:
    first = authority.of.__wrapped__(secret)
    assert authority.of.__wrapped__(secret).text == first.text
    assert (authority.of(other).text == first.text) == (other == secret)
    assert first.certificate.serial_number > 0


def test_the_authority_of_a_secret_is_the_same_in_each_release() -> None:
    """Another one would be foreign to all clients."""
    identity = authority.of(SECRET).certificate.fingerprint(authority.SHA256()).hex()
    assert identity == "bdfaa5a171d75b924e42d43d9d83a120724fd40ace1b90371f0ab9d5dbe9ccf5"


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_takes_a_certificate_for_its_names_only(purpose: str, tmp_path: Path) -> None:
    made = authority.of(SECRET)
    leaf = made.sign(public(), NAMES, NOW)
    common = ("-purpose", purpose)
    for word in (("-verify_ip", "10.0.0.1"), ("-verify_ip", "::1"), ("-verify_hostname", NAMES[3])):
        assert verified(tmp_path, made.text, leaf, *common, *word).endswith("leaf.pem: OK\n"), word
    assert "mismatch" in verified(tmp_path, made.text, leaf, *common, "-verify_ip", "10.0.0.2")
    assert "mismatch" in verified(
        tmp_path, made.text, leaf, *common, "-verify_hostname", "db2.example.com"
    )
    extensions = x509.load_pem_x509_certificate(leaf.encode()).extensions
    said = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in said] == [*NAMES]


def test_a_certificate_of_another_secret_is_foreign(tmp_path: Path) -> None:
    leaf = authority.of(SECRET).sign(public(), NAMES, NOW)
    assert "unable to get" in verified(tmp_path, authority.of("another-secret").text, leaf)


def test_a_certificate_signs_no_other(tmp_path: Path) -> None:
    made = authority.of(SECRET)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509.load_pem_x509_certificate(made.sign(public(key), NAMES, NOW).encode())
    between = authority.Authority(key, leaf, "")
    forged = between.sign(public(), ["10.0.0.2"], NOW)
    (tmp_path / "chain.pem").write_text(leaf.public_bytes(Encoding.PEM).decode())
    said = verified(tmp_path, made.text, forged, "-untrusted", str(tmp_path / "chain.pem"))
    assert "error" in said and "OK" not in said


def test_a_certificate_is_valid_for_two_years(tmp_path: Path) -> None:
    made = authority.of(SECRET)
    leaf = made.sign(public(), NAMES, NOW)
    for day, word in ((-2, "not yet valid"), (-0.9, "OK"), (729, "OK"), (731, "expired")):
        moment = str(int((NOW + timedelta(days=day)).timestamp()))
        assert word in verified(tmp_path, made.text, leaf, "-attime", moment), day


def test_the_key_of_the_authority_is_in_no_certificate() -> None:
    made = authority.of(SECRET)
    number = made.key.private_numbers().private_value.to_bytes(32)
    assert number not in made.certificate.public_bytes(Encoding.DER)


# --- On hosts ------------------------------------------------------------------------------------

HOSTS = {"db1.example.com": "10.0.0.1", "@ssh/pool1": "fd00::2", "10.0.0.3": "10.0.0.3"}


def estate(directory: Path, env: str = "", **data: Any) -> Estate:
    (directory / ".env").write_text(env or f"TLS_CA_SECRET={SECRET}\n")
    (directory / ".env").chmod(0o600)
    hosts = {
        name: {"address": address, "tls_enabled": True, **data} for name, address in HOSTS.items()
    }
    return helpers.estate(hosts, {"postgres": ["db1.example.com"]}, directory)


def knows(node: Node, certificate: str = "", known: str = "", clock: float = 0, **key: Any) -> Node:
    """A host that says so of its key for Redis."""
    found = {e.path: Found("dir", e.mode, "root", "root") for e in probes._paths(node)}
    for path, text in ((AUTHORITY, known), *((p, "") for p in found if "certificate" in p)):
        found[path] = _file(text)
    found[certificates.certificate_file("redis")] = _file(certificate)
    keys = {"redis": Key(**key)} if key else {}
    said = {"files": found, "keys": keys, "clock": clock, "openssl": True}
    node.reader = lambda _group: said
    return node


def _keys_of(directory: Path, *services: str) -> str:
    keys = " ".join(f"{service}={directory}/{service}/key.pem" for service in services)
    return shell("keys", "tls", keys=keys, by="%U:%G")


def _file(text: str) -> Found:
    return Found("file", "644", "root", "root", text.encode()) if text else Found("absent")


def lines(node: Node) -> list[str]:
    change = certificates.missing_certificate(node, "redis")
    return change.lines if change else []


def certified(directory: Path, **data: Any) -> tuple[Node, str, dict[str, Any]]:
    """A host whose certificate is as it should be."""
    node = estate(directory, **data).nodes[0]
    key: dict[str, Any] = {"public": public(), "access": "640 root:redis"}
    leaf = authority.of(SECRET).sign(key["public"], certificates.names(node), NOW)
    knows(node, leaf, certificates.trusted(node), **key)
    return node, leaf, key


def test_a_certificate_that_is_right_stays(tmp_path: Path) -> None:
    node, leaf, _ = certified(tmp_path)
    assert lines(node) == []
    assert certificates.missing_key(node, "redis", "redis") is None
    assert certificates.missing_authority(node) is None
    assert rules.checks(node) == []
    assert certificates.fingerprint(node, "redis") not in ("", "-")
    assert leaf


def test_all_that_a_service_needs_is_written_at_once(tmp_path: Path) -> None:
    """A component alone writes the authority's certificate too."""
    node, _, key = certified(tmp_path)
    knows(node, "", "", **key)
    change = certificates.missing_certificate(node, "redis")
    assert change is not None
    assert [line.split(" ")[4] for line in change.variables["ORDERS"].splitlines()] == [
        AUTHORITY,
        certificates.certificate_file("redis"),
    ]
    assert change.script.count("__ORDERS__") == 2


def test_names_are_those_of_the_inventory(tmp_path: Path) -> None:
    assert [certificates.names(node) for node in estate(tmp_path).nodes] == [
        ["10.0.0.1", "127.0.0.1", "::1", "db1.example.com"],
        ["fd00::2", "127.0.0.1", "::1", "pool1"],
        ["10.0.0.3", "127.0.0.1", "::1"],
    ]


def test_a_bare_host_gets_a_key_and_a_certificate(tmp_path: Path) -> None:
    node = knows(estate(tmp_path).nodes[0])
    key = certificates.missing_key(node, "redis", "redis")
    assert key is not None and key.lines == ["/etc/datatier/tls/redis/key.pem: create"]
    assert lines(node) == [
        f"{AUTHORITY}: create",
        "/etc/datatier/tls/redis/certificate.pem: create",
    ]
    assert certificates.fingerprint(node, "redis") == "-"
    node.host.state.is_executing = True
    with pytest.raises(Unreadable, match=r"key\.pem is missing: run again"):
        lines(node)


@pytest.mark.parametrize(
    ("days", "why"),
    [
        (-731, "renew (it has expired)"),
        (-701, "renew (28 days left)"),
        (3, "renew (it begins in the future)"),
    ],
)
def test_a_certificate_is_renewed_in_time(days: int, why: str, tmp_path: Path) -> None:
    node, _, key = certified(tmp_path)
    when = NOW + timedelta(days=days)
    leaf = authority.of(SECRET).sign(key["public"], certificates.names(node), when)
    knows(node, leaf, certificates.trusted(node), **key)
    assert lines(node) == [f"/etc/datatier/tls/redis/certificate.pem: {why}"]


def test_what_is_wrong_with_a_certificate_is_said_and_mended(tmp_path: Path) -> None:
    node, leaf, key = certified(tmp_path)
    known, path = certificates.trusted(node), "/etc/datatier/tls/redis/certificate.pem"
    knows(node, leaf[:200], known, **key)
    assert lines(node) == [f"{path}: create again; it cannot be read"]
    knows(node, leaf, known, **{**key, "public": public()})
    assert lines(node) == [f"{path}: sign again for another key"]
    stranger = authority.of("another-secret").sign(key["public"], certificates.names(node), NOW)
    knows(node, stranger, known, **key)
    assert lines(node) == [f"{path}: sign again by the estate's authority"]
    more = authority.of(SECRET).sign(key["public"], [*certificates.names(node), "10.0.0.2"], NOW)
    knows(node, more, known, **key)
    assert lines(node) == [f"{path}: sign again for 10.0.0.1, 127.0.0.1, ::1, db1.example.com"]


def test_keys_that_are_none_of_ours_are_made_again(tmp_path: Path) -> None:
    node, leaf, key = certified(tmp_path)
    known = certificates.trusted(node)
    for wrong in (b"", b"no key", public(rsa.generate_private_key(65537, 2048))):
        knows(node, leaf, known, public=wrong, access=key["access"])
        change = certificates.missing_key(node, "redis", "redis")
        assert change and change.lines == ["/etc/datatier/tls/redis/key.pem: create"]
    knows(node, leaf, known, public=key["public"], access="644 root:root")
    change = certificates.missing_key(node, "redis", "redis")
    assert change and change.lines == [
        "/etc/datatier/tls/redis/key.pem: owner root:redis, mode 640"
    ]


BITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=3)


@given(bits=BITS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_certificate_of_a_host_ends_a_run(bits: list[tuple[int, int]], tmp_path: Path) -> None:
    """Whatever bits a file has: it stays because it is right, or another one takes its place."""
    node, leaf, key = certified(tmp_path)
    der = bytearray(_der(leaf))
    for place, value in bits:
        der[place % len(der)] = value
    body = base64.encodebytes(der).decode()
    hostile = f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    known = certificates.trusted(node)
    knows(node, hostile, known, **key)
    assert bool(lines(node)) is (base64.b64decode(body) != _der(leaf))
    assert rules.checks(node) == []
    knows(node, leaf, hostile, **key)
    rules.checks(node)


def _der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "how",
    [
        "ecparam -genkey -noout -name secp112r1",
        "ecparam -genkey -noout -name brainpoolP256r1",
        "ecparam -genkey -noout -name SM2",
        "ecparam -genkey -noout -name prime256v1 -param_enc explicit",
        "genpkey -algorithm ED25519",
        "genpkey -algorithm X448",
    ],
)
def test_a_key_that_servers_refuse_is_made_again(how: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    openssl(*how.split(" "), "-out", tmp_path / "redis/key.pem")
    said = helpers.shell(_keys_of(tmp_path, "redis"))
    key = probes._keys(said.stdout.splitlines())["redis"]
    assert key.public and not certificates._is_fit(key)


def test_another_secret_is_refused_where_clients_trust_the_present_one(tmp_path: Path) -> None:
    node, leaf, key = certified(tmp_path)
    old = certificates.trusted(node)
    (tmp_path / "b").mkdir()
    second = "TLS_CA_SECRET=the-second-secret-of-all-tests\n"
    other = knows(estate(tmp_path / "b", second).nodes[0], leaf, old, **key)
    (problem,) = rules.checks(other)
    assert str(problem).startswith(
        "db1.example.com: TLS_CA_SECRET: is not the one of /etc/datatier/tls/ca.pem here: "
    )


def test_an_authority_is_changed_in_three_runs(tmp_path: Path) -> None:
    """Both are trusted, then the other one signs, then the first one goes; no step is left out."""
    node, leaf, key = certified(tmp_path)
    old = certificates.trusted(node)
    first, second = f"TLS_CA_SECRET={SECRET}\n", "TLS_CA_SECRET=the-second-secret-of-all-tests\n"

    def with_secrets(name: str, env: str, leaf: str, known: str) -> Node:
        (tmp_path / name).mkdir()
        return knows(estate(tmp_path / name, env).nodes[0], leaf, known, **key)

    both = with_secrets(
        "1", f"{first}TLS_CA_SECRET_ALSO=the-second-secret-of-all-tests\n", leaf, old
    )
    assert rules.checks(both) == [] and lines(both) == [f"{AUTHORITY}: change"]
    known = certificates.trusted(both)
    turned = with_secrets("2", f"{second}TLS_CA_SECRET_ALSO={SECRET}\n", leaf, known)
    assert rules.checks(turned) == []
    assert lines(turned)[-1].endswith("sign again by the estate's authority")
    early = with_secrets("early", second, leaf, known)
    assert "TLS_CA_SECRET_ALSO: has signed" in str(rules.checks(early)[0])
    new = authority.of("the-second-secret-of-all-tests").sign(
        key["public"], certificates.names(node), NOW
    )
    gone = with_secrets("3", second, new, certificates.trusted(turned))
    assert rules.checks(gone) == [] and lines(gone) == [f"{AUTHORITY}: change"]


def test_a_clock_that_is_wrong_is_refused(tmp_path: Path) -> None:
    node, leaf, key = certified(tmp_path)
    for clock, way in ((-3e7, "347 days behind"), (2e5, "2 days ahead of")):
        knows(node, leaf, certificates.trusted(node), clock, **key)
        (problem,) = rules.checks(node)
        assert str(problem) == (
            f"db1.example.com: clock: is {way} this machine's: set it; certificates are valid by it"
        )


def test_all_hosts_have_certificates_or_none(tmp_path: Path) -> None:
    hosts: dict[str, Any] = {
        "a": {"address": "10.0.0.1", "tls_enabled": True},
        "b": {"address": "10.0.0.2"},
    }
    made = helpers.estate(hosts, {"redis": ["a", "b"]}, tmp_path)
    assert helpers.problems(made) == [
        "b: tls_enabled: should be the same on all hosts; a has it",
    ]


def test_a_secret_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    """Who knows ca.pem may try as many as a machine can."""
    env = "TLS_CA_SECRET=secret-of-23-characters\nTLS_CA_SECRET_ALSO=short-one\n"
    assert helpers.problems(estate(tmp_path, env)) == [
        f"db1.example.com: {name}: should have at least 24 characters, drawn at random"
        for name in ("TLS_CA_SECRET", "TLS_CA_SECRET_ALSO")
    ]


def test_the_key_never_leaves_the_host(tmp_path: Path) -> None:
    """Made by the script of a run, read by that of a read."""
    place = tmp_path / "redis/key.pem"
    place.parent.mkdir()
    script = shell("make-key", "tls", keys=str(place.parent), group="root", keep="")
    assert helpers.shell(f"set -eu\n{script}").stderr == ""
    text = place.read_text()
    assert (place.stat().st_mode & 0o777, "PRIVATE KEY" in text) == (0o640, True)
    said = helpers.shell(_keys_of(tmp_path, "redis", "postgres"))
    assert said.stderr == ""
    key = probes._keys(said.stdout.splitlines())["redis"]
    assert certificates._is_fit(key) and key.access == "640 root:root"
    body = "".join(text.splitlines()[1:-1])
    assert body[:40] not in said.stdout
    place.chmod(0o644)
    script = shell("make-key", "tls", keys=str(place.parent), group="root", keep="1")
    assert helpers.shell(f"set -eu\n{script}").stderr == ""
    assert (place.stat().st_mode & 0o777, place.read_text()) == (0o640, text)


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PRIVATE KEY-----\nMIG\n"])
def test_a_file_that_is_no_key_is_told_from_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis/key.pem").write_text(content)
    said = helpers.shell(_keys_of(tmp_path, "redis"))
    key = probes._keys(said.stdout.splitlines())["redis"]
    assert (said.stderr, key.public) == ("", b"")


def test_what_a_server_has_in_its_configuration_does_not_go(tmp_path: Path) -> None:
    script = shell("unused", "tls", root="/etc/datatier/tls", searched=str(tmp_path))
    assert helpers.shell(f"set -eu\n{script}").returncode == 0
    (tmp_path / "redis").mkdir()
    named = tmp_path / "redis/redis-6379.conf"
    named.write_text("tls-key-file /etc/datatier/tls/redis/key.pem\n")
    done = helpers.shell(f"set -eu\n{script}")
    why = f"/etc/datatier/tls stays: {named} still names it; run again\n"
    assert (done.returncode, done.stderr) == (1, why)


def test_the_file_for_clients_is_printed_without_a_host(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("")
    with pytest.raises(SystemExit, match="TLS_CA_SECRET is neither in the environment nor in"):
        printed.main(Secrets(env))
    env.write_text(f"TLS_CA_SECRET={SECRET}\nTLS_CA_SECRET_ALSO=the-second-secret-of-all-tests\n")
    both = authority.of(SECRET).text + authority.of("the-second-secret-of-all-tests").text
    assert printed.main(Secrets(env)) == both


def test_a_certificate_is_renewed_when_that_is_asked_for(tmp_path: Path) -> None:
    node, _, _ = certified(tmp_path)
    certificates._asked.add(node)
    assert lines(node) == ["/etc/datatier/tls/redis/certificate.pem: renew"]
    assert certificates.fingerprint(node, "redis") == "-"


# --- Health --------------------------------------------------------------------------------------


def row(directory: Path, days: int) -> tuple[int, str]:
    script = shell(
        "valid",
        "tls",
        certificates=str(directory / "redis/certificate.pem"),
        authority=str(directory / "ca.pem"),
        days=str(days),
        remedy="a run renews it",
    )
    done = helpers.shell(f"set -eu\n{script}")
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_the_health_table_tells_the_days_that_are_left(tmp_path: Path) -> None:
    assert row(tmp_path, 30) == (1, f"{tmp_path}/ca.pem is missing")
    made, place = authority.of(SECRET), tmp_path / "redis/certificate.pem"
    (tmp_path / "ca.pem").write_text(made.text)
    place.parent.mkdir()
    place.write_text(made.sign(public(), NAMES, NOW))
    assert row(tmp_path, 30) == (0, "valid for 729 days")
    place.write_text(made.sign(public(), NAMES, NOW - timedelta(days=710)))
    assert row(tmp_path, 30) == (1, f"{place}: 19 days left; a run renews it")
    assert row(tmp_path, 10) == (0, "valid for 19 days")
    place.write_text(made.sign(public(), NAMES, NOW - timedelta(days=740)))
    assert row(tmp_path, 30) == (1, f"{place}: has expired; a run renews it")
    place.write_text("no certificate")
    (tmp_path / "ca.pem").write_text(made.sign(public(), NAMES, NOW - timedelta(days=740)))
    both = f"{tmp_path}/ca.pem: has expired, {place}: cannot be read; a run renews it"
    assert row(tmp_path, 30) == (1, both)


def test_a_server_is_asked_what_it_shows(tmp_path: Path) -> None:
    """A real one, which keeps the certificate that it has begun with."""
    key = tmp_path / "key.pem"
    openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
    request = openssl("pkey", "-in", key, "-pubout")
    der = load_pem_public_key(request.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    made, place, named = authority.of(SECRET), tmp_path / "certificate.pem", tmp_path / "ini"
    place.write_text(made.sign(der, NAMES, NOW))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        ["openssl", "s_server", "-quiet", "-accept", port, "-key", key, "-cert", place]
    )
    try:
        script = f"{shell('shows', 'tls')}shows {place} 127.0.0.1:{port} '' {named}"
        named.write_text("another one")
        assert helpers.shell(script).returncode == 0
        named.write_text(str(place))
        assert helpers.shell(script).returncode == 0
        place.write_text(made.sign(der, NAMES, NOW))
        done = helpers.shell(script)
        why = f"127.0.0.1:{port} does not show {place}: see the log of that server\n"
        assert (done.returncode, done.stderr) == (1, why)
    finally:
        server.kill()
        server.wait()


# --- In containers -------------------------------------------------------------------------------


def project(directory: Path, **data: Any) -> Node:
    """A host that runs the stack in containers and publishes TLS."""
    (directory / ".env").write_text(f"TLS_CA_SECRET={SECRET}\n")
    (directory / ".env").chmod(0o600)
    box = {"address": "10.0.0.5", "tls_enabled": True, **data}
    node = helpers.estate({"box": box}, {"docker": ["box"]}, directory).nodes[0]
    assert helpers.problems(node.estate) == []
    return knows(node)


def test_a_project_publishes_ports_of_tls_and_its_containers_stay_in_clear(tmp_path: Path) -> None:
    node = project(tmp_path)
    assert node.inside is not None
    instance = node.inside.having(RedisSettings)[0]
    assert redis_tls.parameters(instance, 6379) == {
        "port": "6379",
        "tls-port": "6380",
        "tls-cert-file": "/etc/redis/signed/certificate.pem",
        "tls-key-file": "/etc/redis/signed/key.pem",
        "tls-auth-clients": "no",
    }
    assert redis_tls.options(instance) == "" and redis_tls.variables(instance) == {}
    text = compose_file(node)
    for port, inner in ((6379, 6380), (6381, 6380), (26379, 26380), (5432, 5432), (6432, 6432)):
        assert f'"127.0.0.1:{port}:{inner}"' in text, port
    server = node.inside.having(PostgresSettings)[0]
    etc = "/etc/postgresql/17/main/signed"
    assert link.shown(server, {}) == {
        "ssl_cert_file": f"{etc}/certificate.pem",
        "ssl_key_file": f"{etc}/key.pem",
    }
    assert link.parameters(server, {})["ssl"] == "on"


def test_keys_of_a_project_lie_beside_its_other_secrets(tmp_path: Path) -> None:
    """Each directory is made with the mode that the project's files want of it."""
    node = project(tmp_path)
    key = certificates.missing_key(node, "redis", "637")
    home = "/opt/psscript/docker/redis/signed"
    assert key is not None and key.lines == [f"{home}/key.pem: create"]
    wanted = {entry.path: entry for entry in probes.places(node, "redis")}
    assert list(wanted) == [
        "/opt/psscript",
        "/opt/psscript/docker",
        "/opt/psscript/docker/redis",
        home,
    ]
    entries = {entry.path: entry for entry in project_files(node)}
    assert [entries[path] for path in list(wanted)[:3]] == list(wanted.values())[:3]
    there: dict[str, Any] = {"public": public(), "access": "640 root:637"}
    leaf = authority.of(SECRET).sign(there["public"], certificates.names(node), NOW)
    knows(node, "", certificates.trusted(node), **there)
    said = node.read("tls")["files"]
    said[f"{home}/certificate.pem"] = _file(leaf)
    assert certificates.missing_key(node, "redis", "637") is None and lines(node) == []
    assert node.inside is not None
    for container in node.inside.having(RedisSettings):
        assert redis_tls.fingerprint(container) == certificates.fingerprint(node, "redis") != "-"


def test_a_host_of_containers_without_openssl_is_refused(tmp_path: Path) -> None:
    node = project(tmp_path)
    node.read("tls")["openssl"] = False
    assert [str(each) for each in rules.checks(node)] == [
        "box: tls_enabled: needs openssl, which makes keys: apt-get install openssl"
    ]


def test_a_project_and_hosts_decide_each_for_itself(tmp_path: Path) -> None:
    hosts: dict[str, Any] = {
        "a": {"address": "10.0.0.1"},
        "box": {"address": "10.0.0.2", "tls_enabled": True},
    }
    made = helpers.estate(hosts, {"redis": ["a"], "docker": ["box"]}, tmp_path)
    assert helpers.problems(made) == []
