# Clients go on. A file for each pooler that holds its clients for us: no PAUSE of others is ended.
# This run has no connection to some of them either, which is said elsewhere.
is_absent() { # POOLER WHY
  printf '%s\n' "$absent_poolers" | grep -qxF -e "$1" || return 1
  case $2 in ''|*'timeout expired'*|*'No route'*) return 0 ;; esac
  return 1
}
go_on() {
  stuck=
  for held in "$held_in"/pgbouncer-*.held; do
    [ -e "$held" ] || continue
    pooler=${held##*/pgbouncer-}; pooler=${pooler%.held}
    why=$(console "$pooler" 10 RESUME 2>&1) || case $why in
      *'not paused'*|*refused*|*'No such'*|*'not running'*) ;;
      *)
        if is_absent "$pooler" "$why"; then continue; fi
        echo "PgBouncer ($pooler) does not take RESUME, give it by hand or run again: $why" >&2
        stuck=1
        continue ;;
    esac
    rm -f "$held"
  done
  [ -z "$stuck" ]
}
