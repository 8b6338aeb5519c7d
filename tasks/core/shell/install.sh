# A policy-rc.d that denies every start keeps the packages from running default servers, open
# and on default ports, before their configuration is ours. Its mark lets an interrupted run be
# recognised, and an administrator's own policy is left alone.
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp); policy=/usr/sbin/policy-rc.d
cleanup() { rm -f "$log"; if grep -qs datatier "$policy"; then rm -f "$policy"; fi; }
trap cleanup EXIT
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\n# datatier: no service starts while packages are installed\nexit 101\n' \
    >"$policy"
  chmod 755 "$policy"
fi
apt() {
  apt-get -q -y -o DPkg::Lock::Timeout=30 -o Dpkg::Options::=--force-confold "$@" \
    >"$log" 2>&1 </dev/null
}
get() { apt install --no-install-recommends $packages; }
install_packages() {
  dpkg --configure -a >"$log" 2>&1 </dev/null || true
  get || { ! grep -q '^E: .* lock' "$log" && apt update && get; } || {
    why=$(grep -o 'Could not get lock .* held by process [0-9]* ([^)]*)' "$log" | tail -n 1)
    [ -n "$why" ] || why=$(grep '^E: ' "$log" | head -n 1)
    echo "packages could not be installed: ${why:-$(tail -n 1 "$log")}" >&2
    exit 1
  }
}
