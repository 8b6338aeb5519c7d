#!/bin/sh
# Runs a command in a root of its own, where no path of a live server exists: the system and the
# repository, read-only, and one directory to write in. Needs a mount namespace of its own.
# Usage: sandbox.sh HOME REPOSITORY COMMAND...
set -eu
umask 022
home=$1 repository=$2 root=$1/root
shift 2

show() {
  mkdir -p "$root$1"
  mount --rbind "$1" "$root$1"
  mount -o "remount,bind,ro" "$root$1"
}
mount -t tmpfs -o mode=755 scratch "$root"
for path in /usr /etc "$repository"; do show "$path"; done
for path in /bin /sbin /lib /lib32 /lib64 /libx32; do
  if [ -L "$path" ]; then ln -s "usr$path" "$root$path"; elif [ -d "$path" ]; then show "$path"; fi
done
mkdir -p "$root/dev/shm" "$root$home"
for path in /dev/null /dev/zero /dev/urandom; do
  : >"$root$path"
  mount --bind "$path" "$root$path"
done
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mkdir -m 1777 "$root/tmp"
mount --bind "$home" "$root$home"
# Where tablespaces want to be: an empty directory of the scratch server's at each place, none of
# which is in what is shown, where links of others would still lead out of the new root.
number=0
while IFS= read -r location; do
  number=$((number + 1))
  mkdir -p "$root$location"
  mount --bind "$home/location$number" "$root$location"
done <"$home/locations"
exec chroot "$root" "$@"
