# Before it forgets, every member has to be up, so that it is found again. A replica is
# found by the next INFO of the master, which Sentinel sends every 10 s; a Sentinel within 2 s.
obstacle() { # PORT OTHERS GONE FLAGS
  known "$1" >"$seen"
  leader=$(awk '$1 == "master" && $3 == "master" { print $2 }' "$seen")
  [ -n "$leader" ] || { echo 'the master is not up'; return; }
  for each in $NODES; do
    [ "$each" = "$leader" ] || grep -qx "replica $each slave" "$seen" ||
      { echo "the replica $each is not up"; return; }
  done
  for each in $2; do
    grep -qx "sentinel $each sentinel" "$seen" || { echo "the Sentinel $each is not up"; return; }
    link_to "${each%:*}" "${each##*:}"
    said=$(timeout 2 /usr/bin/redis-cli $via -h "${each%:*}" -p "${each##*:}" \
      SENTINEL GET-MASTER-ADDR-BY-NAME "$name" 2>/dev/null | paste -s -d :)
    [ "$said" = "$leader" ] || { echo "the Sentinel $each names ${said:-none}"; return; }
  done
  for each in $3; do
    ! grep " $each " "$seen" | grep -qvE "$4" || { echo "$each runs"; return; }
  done
}
until_none() { # SERVICE WHAT ARGUMENTS
  service=$1 what=$2; shift 2
  for _ in $(seq 60); do
    why=$(obstacle "$@"); [ -n "$why" ] || return 0; sleep 1
  done
  echo "$service $what: $why" >&2; exit 1
}
forget() { # PORT SERVICE OTHERS GONE
  accepted "$1" || { echo "$2 does not answer" >&2; exit 1; }
  until_none "$2" 'is not reset' "$1" "$3" "$4" 's_down|disconnected'
  /usr/bin/redis-cli $via -p "$1" SENTINEL RESET "$name" >/dev/null
  until_none "$2" 'has not rediscovered all members' "$1" "$3" "$4" '^$'
}
seen=$(mktemp); trap 'rm -f "$seen"' EXIT
