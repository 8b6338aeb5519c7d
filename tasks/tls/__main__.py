"""Prints the certificate of the estate's authority, with which clients verify servers."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core.secrets import Secrets
from tasks.tls import authority
from tasks.tls.probes import AUTHORITY
from tasks.tls.settings import FURTHER_SECRET, SECRET


def main(store: Secrets) -> str:
    """The content of `AUTHORITY`.

    Raises:
        SystemExit: the secret is not known here.
    """
    if store.find(SECRET) is None:
        raise SystemExit(
            f"{SECRET} is neither in the environment nor in .env; take {AUTHORITY} of any host"
        )
    secrets = filter(None, map(store.find, (SECRET, FURTHER_SECRET)))
    return "".join(authority.of(secret).text for secret in secrets)


if __name__ == "__main__":
    sys.stdout.write(main(Secrets(Path(".env"))))
