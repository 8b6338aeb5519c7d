# Scripts for hosts begin as root; a container's user is who they want to become.
if [ "$(id -u)" != 0 ]; then
  bin=$(mktemp -d); trap 'rm -rf "$bin"' EXIT
  printf '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n' >"$bin/runuser"
  chmod 755 "$bin/runuser"; PATH=$bin:$PATH
fi
