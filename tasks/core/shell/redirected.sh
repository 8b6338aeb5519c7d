# Of some places (ADDRESS PORT) those where someone answers who does not listen there: rules of the
# kernel, nftables' say, give packets another address on their way. Both ends of a connection to a
# server of this host are in the kernel's tables, and the end that has accepted says where.
# shellcheck disable=SC3025,SC3060  # it is for bash
accepted() { # ADDRESS PORT
  exec 3<>"/dev/tcp/$1/$2" || return 0
  socket=$(readlink /proc/self/fd/3)
  cat /proc/net/tcp /proc/net/tcp6 | awk -v socket="${socket//[!0-9]/}" '
    { split($2, here, ":"); split($3, there, ":"); from[here[2], there[2]] }
    $10 == socket { mine = here[2]; wanted = there[2] }
    END { exit mine != "" && !((wanted, mine) in from) }'
}
while [ $# -gt 1 ]; do
  (accepted "$1" "$2") 2>/dev/null || echo "redirected $1:$2"
  shift 2
done
