"""The keys `tls_*`: whether servers have certificates of the estate's authority."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tasks.core.settings import Settings

# The authority itself; see authority.py.
SECRET = "TLS_CA_SECRET"
# Another one that is trusted as well, while the estate goes over from one to the other.
FURTHER_SECRET = "TLS_CA_SECRET_ALSO"


class TlsSettings(Settings):
    """What has certificates, and when they are renewed."""

    prefix: ClassVar[str] = "tls_"

    enabled: bool = False
    """Servers get certificates of the estate's own authority, which is made from `TLS_CA_SECRET`;
    clients verify all of them with one file. Should be the same on all hosts. In Docker it is of
    published ports only. Change: reload; open connections stay. In Docker Redis and Sentinel get
    new containers, one by one."""
    ca_certificate: str | None = None
    """A file of this machine with your own authority, and further ones to trust; hosts trust it
    beside the estate's. Should be the same on all hosts. Change: reload, and Sentinels restart."""
    certificate: str | None = None
    """A file of this machine with a host's certificate of your authority, and those between; PEM,
    for the `address` of that host. Without it the estate's authority signs one. Change: reload."""
    key: str | None = None
    """The file with the key of that certificate, without a passphrase, which only its owner may
    read. Change: reload."""
    renew_days: Annotated[int, Field(ge=1, le=365)] = 30
    """Days before its end from which a run renews a certificate; one is valid for two years.
    Change: none until then."""
