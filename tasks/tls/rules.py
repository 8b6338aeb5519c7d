"""What is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509

from tasks.core.estate import Estate, Node
from tasks.core.settings import Problem
from tasks.tls import authority, certificates, own
from tasks.tls.authority import SLACK, UNUSABLE
from tasks.tls.probes import AUTHORITY, SERVICES
from tasks.tls.settings import FURTHER_SECRET, SECRET, TlsSettings

_DAY = 86400
# No one may find it by trying: who knows ca.pem knows whether a guess is right.
_SHORTEST = 24


def contradictions(everything: Estate) -> list[Problem]:
    """Hosts that have none while others have, and containers."""
    key, problems = TlsSettings.key_of("enabled"), list[Problem]()
    on = everything.having(TlsSettings)
    for node in everything.nodes:
        # In Docker it is of what the host publishes only.
        others = [each for each in on if each.inside is None]
        if node.inside is None and node not in on and others:
            message = f"should be the same on all hosts; {others[0].name} has it"
            problems.append(Problem(node.name, key, message))
    return [*problems, *_secrets(on[0]), *own.problems(everything)] if on else []


def _secrets(node: Node) -> Iterator[Problem]:
    """The certificate that all may have tells whether a guess is right."""
    store = node.estate.secrets
    if why := store.wrong(FURTHER_SECRET):
        yield Problem(node.name, FURTHER_SECRET, why)
    for name in (SECRET, FURTHER_SECRET):
        if len(store.find(name) or _SHORTEST * " ") < _SHORTEST:
            message = f"should have at least {_SHORTEST} characters, drawn at random"
            yield Problem(node.name, name, message)


def checks(node: Node) -> list[Problem]:
    """A clock that certificates would not be valid by, and an authority that others do not know."""
    return [*_no_openssl(node), *_clock(node), *_unknown_authority(node)]


def _no_openssl(node: Node) -> Iterator[Problem]:
    """A host of containers, where packages are not ours."""
    if node.inside is not None and not node.read("tls")["openssl"]:
        message = "needs openssl, which makes keys: apt-get install openssl"
        yield Problem(node.name, TlsSettings.key_of("enabled"), message)


def _clock(node: Node) -> Iterator[Problem]:
    off = node.read("tls")["clock"]
    if abs(off) > SLACK.total_seconds():
        way = "ahead of" if off > 0 else "behind"
        message = f"is {abs(off) / _DAY:.0f} days {way} this machine's: set it"
        yield Problem(node.name, "clock", f"{message}; certificates are valid by it")


def _unknown_authority(node: Node) -> Iterator[Problem]:
    """Clients that know the present one only would trust no server any more."""
    if node.stack.replace_secrets or SECRET in node.estate.secrets.generated:
        return
    found = node.read("tls")["files"]
    mine = certificates.authorities(node.estate)
    back = f"put the one of the last deployment there; to change it, see {FURTHER_SECRET}"
    try:
        known = x509.load_pem_x509_certificates(found[AUTHORITY].content)
    except UNUSABLE:
        return
    if mine[0].certificate not in known:
        yield Problem(node.name, SECRET, f"is not the one of {AUTHORITY} here: {back}")
        return
    yield from _too_early(node, known)
    stays = x509.load_pem_x509_certificates(certificates.trusted(node).encode())
    going = [each for each in known if each not in stays]
    for path in (certificates.certificate_file(service, node) for service in SERVICES):
        shown = certificates.chain(found[path])
        for each in going:
            if any(authority.has_signed(each, one) for one in shown):
                yield _still_shown(node, each, path, back)


def _too_early(node: Node, known: Sequence[x509.Certificate]) -> Iterator[Problem]:
    """A certificate of an authority that hosts and clients do not trust yet."""
    root = own.of(node).root
    if root and x509.load_pem_x509_certificate(root.encode()) not in known:
        message = f"deploy once without it: {AUTHORITY} here does not have its root yet"
        yield Problem(node.name, own.CERTIFICATE, message)


def _still_shown(node: Node, going: x509.Certificate, path: str, back: str) -> Problem:
    if authority.is_estates(going):
        return Problem(node.name, FURTHER_SECRET, f"has signed {path} here: {back}")
    name = going.subject.rfc4514_string()
    message = f"should have {name!r}, which has signed {path} here, until one run has changed that"
    return Problem(node.name, own.CA, message)


def secrets_in_use(node: Node) -> Mapping[str, str]:
    """The authority, where a host has certificates of it."""
    is_there = node.read("tls")["files"][AUTHORITY].content
    return {SECRET: ""} if is_there else {}
