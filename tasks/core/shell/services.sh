uptime_seconds() { cut -d . -f 1 /proc/uptime; }
# A server that reads much data has five times as long.
answer() {
  begin=$(uptime_seconds)
  until (ready) >/dev/null 2>&1 </dev/null; do
    waited=$(($(uptime_seconds) - begin)) limit=$start_seconds
    if [ "$waited" -ge 5 ] && is_failing "$2"; then
      echo "$1 ends again and again as it starts; its log ends with: $(last_log "$@")" >&2
      exit 1
    fi
    if [ "$waited" -ge "$limit" ] && is_starting "$2"; then limit=$((5 * limit)); fi
    if [ "$waited" -ge "$limit" ]; then
      echo "$1 does not answer after $limit s; its log ends with: $(last_log "$@")" >&2
      exit 1
    fi
    sleep 0.1
  done
}
again() { # NAME UNIT
  hold
  restart_service "$@"
}
# A file from the future would stay newer than every record. The clock of file times may be some
# milliseconds late, so that a record seemed older than a file of this second.
settle() {
  shift; for f; do at "$f" touch -c -h -d @"$(($(date +%s) - 1))" "$f"; done
}
record() {
  install -d -m 700 "$records"
  name=$1; shift
  echo "$*" >"$records/$name.active.new"
  mv "$records/$name.active.new" "$records/$name.active"
}
