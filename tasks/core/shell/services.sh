uptime_seconds() { cut -d . -f 1 /proc/uptime; }
answer() {
  end=$(($(uptime_seconds) + start_seconds))
  until (ready) >/dev/null 2>&1 </dev/null; do
    if [ "$(uptime_seconds)" -ge "$end" ]; then
      echo "$1 does not answer after $start_seconds s; its log ends with: $(last_log "$@")" >&2
      exit 1
    fi
    sleep 0.2
  done
  is_started "$@"
}
again() { # NAME UNIT
  hold
  restart_service "$@"
  answer "$@"
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
