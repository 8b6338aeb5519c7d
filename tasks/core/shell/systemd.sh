# What a boot starts takes no reading of all units, which update-rc.d causes all the same.
enable_service() {
  case $(systemctl is-enabled "$2" 2>/dev/null) in
    masked*) systemctl -q unmask "$2" ;;
    enabled) return 0 ;;
  esac
  systemctl -q --no-reload enable "$2" 2>/dev/null
}
start_service() { restart_service "$@"; }
# Once for all starts of a script, which takes systemd longer than most of these.
read_units() { [ -n "${has_read:-}" ] || systemctl daemon-reload; has_read=1; }
# A unit without a limit of its own would be waited for without end.
restart_service() { read_units; timeout 330 systemctl restart "$2" || true; }
# Another process may answer in its place, and keep it from its start.
is_started() {
  for _ in $(seq 50); do
    state=$(systemctl is-active "$2") || :
    case $state in active | reloading) return 0 ;; activating) sleep 0.1 ;; *) break ;; esac
  done
  case $state in
    activating) echo "$1 answers, but systemd still waits for its start: $(last_log "$@")" >&2 ;;
    *) echo "$1 is $state, and another process answers in its place: $(last_log "$@")" >&2 ;;
  esac
  exit 1
}
stop_service() { systemctl stop "$2"; }
# Lines by hand that say what runs or as whom become comments.
own_again() { # UNIT
  has_read=
  for f in "/etc/systemd/system/$1.d"/*.conf; do
    case $f in */datatier*) continue ;; esac
    sed -Ei --follow-symlinks ':a; /\\$/ { N; ba }
      /^[ \t]*((ExecStart|User|Group|Root(Directory|Image))[ \t]*=|ExecStartPre[ \t]*=[ \t]*$)/ s/^/# /Mg' \
      "$f"
  done
}
