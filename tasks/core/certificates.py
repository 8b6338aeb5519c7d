"""A host's own key and self-signed certificate, which other hosts pin; the key never leaves it."""

from __future__ import annotations

from tasks.core.change import Change
from tasks.core.estate import Node
from tasks.core.remote import Probe

_MAKE = """
install -d -m 750 -o root -g postgres {home}
out=$(umask 077
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} \\
  -subj "/CN={address}" -addext "subjectAltName=DNS:{address},IP:{address}" \\
  -keyout {home}/key.new -out {home}/certificate.new 2>&1) || {{
  echo "openssl could not make a key: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }}
chown postgres:postgres {home}/key.new; chmod 600 {home}/key.new
chmod 644 {home}/certificate.new
mv {home}/key.new {home}/key.pem; mv {home}/certificate.new {home}/certificate.pem
"""

# openssl says whether the certificate is of an address, but not by its exit code. One that ends
# within a month is made again, and so is one whose key is another: a run was cut off between them.
_READ = """
if [ -s {home}/key.pem ] && openssl x509 -in {home}/certificate.pem -noout -checkip {address} \\
  2>/dev/null | grep -q 'does match' &&
  openssl x509 -in {home}/certificate.pem -noout -checkend 2592000 >/dev/null &&
  [ "$(openssl x509 -in {home}/certificate.pem -noout -pubkey)" = \\
    "$(openssl pkey -in {home}/key.pem -pubout 2>/dev/null)" ]
then cat {home}/certificate.pem; fi
"""


def probe(node: Node, home: str) -> Probe[str]:
    """Reads this host's certificate; empty where there is none for its address and key."""
    return Probe(_READ.format(home=home, address=node.address), "\n".join)


DAYS = 7300


def make(node: Node, home: str, days: int = DAYS) -> Change:
    """A key and a certificate for this host's address."""
    script = _MAKE.format(home=home, address=node.address, days=days)
    return Change([f"{home}: create a key and a certificate"], script)
