"""A repository of packages that are newer than those of a host, and are the same otherwise."""

from __future__ import annotations

from tests.lab import Host

# Its name is that of a security archive.
_DIRECTORY = "/srv/lab-security"
MORE = "+lab1"
_MAKE = f"""
set -e
mkdir -p {_DIRECTORY} /var/tmp/newer && cd /var/tmp/newer
for name in $NAMES; do
  rm -rf each *.deb
  version=$(dpkg-query -W -f '${{Version}}' $name)
  apt-get download -qq $name >/dev/null 2>&1
  dpkg-deb -R *.deb each
  sed -i -E "s/^Version: .*/&{MORE}/; /^Depends:/s/\\(= $version\\)/(= $version{MORE})/" \\
    each/DEBIAN/control
  dpkg-deb -Zgzip -z1 -b each {_DIRECTORY}/$name.deb >/dev/null
done
cd {_DIRECTORY}
for each in *.deb; do
  dpkg-deb -f $each
  printf 'Filename: ./%s\\nSize: %s\\n' $each $(stat -c %s $each)
  printf 'SHA256: %s\\n\\n' $(sha256sum $each | cut -d ' ' -f 1)
done >Packages
echo 'deb [trusted=yes] file:{_DIRECTORY} ./' >/etc/apt/sources.list.d/lab.list
apt-get update -qq >/dev/null
"""


def offer(host: Host, *names: str) -> None:
    """Makes newer versions of packages available to a host, as security updates."""
    host.run(f"NAMES='{' '.join(names)}'\n{_MAKE}", timeout=180)


def version(host: Host, name: str) -> str:
    """What is installed of a package."""
    return host.run(f"dpkg-query -W -f '${{Version}}' {name}").stdout
