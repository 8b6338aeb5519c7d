# However this script ends, its end of the pipe closes, and so do those of the commands that are
# to hold the clients; then the guard lets them go on.
pause() {
  pooler=$1 mark=$held_in/pgbouncer-$1.held
  why=$(console "$pooler" 10 'SHOW VERSION' 2>&1) || case $why in
    *refused*|*'No such'*|*'not running'*) return 0 ;;
    *'support SSL'*|*certificate*)
      why='another key answers there: look whose it is, or run tasks.pgbouncer.configure first'
      held_up "$pooler" "$why" ;;
    *'authentication failed'*)
      why='does not take the password of postgres: run tasks.pgbouncer.configure first'
      held_up "$pooler" "$why" ;;
    *)
      if is_absent "$pooler" "$why"; then return 0; fi
      held_up "$pooler" "its console does not answer: ${why:-silence}" ;;
  esac
  touch "$mark"
  why=$(console "$pooler" "$pause_seconds" PAUSE 2>&1) && return 0
  case $why in
    *already*) rm "$mark"; why='is already paused; whoever paused it must RESUME it' ;;
    '') why="transactions have been running for $pause_seconds s: see SHOW CLIENTS, and run again" ;;
  esac
  held_up "$pooler" "$why"
}
held_up() { # POOLER WHY
  echo "PostgreSQL was not restarted, because PgBouncer ($1) cannot hold its clients: $2" >&2
  exit 1
}
hold_all() { # POOLER...
  install -d -m 700 "$held_in"
  go_on || exit 1
  pipe=$(mktemp -u -p /run); mkfifo -m 600 "$pipe"
  exec 9<>"$pipe" 8<"$pipe"; rm "$pipe"
  (exec 9>&-; trap '' HUP INT TERM; cat <&8; go_on) >/dev/null 2>&1 &
  guard=$! waiting=
  exec 8<&-
  for pooler; do pause "$pooler" & waiting="$waiting $!"; done
  all=1
  for each in $waiting; do wait "$each" || all=; done
  [ -n "$all" ] || { exec 9>&-; wait "$guard" || :; exit 1; }
}
