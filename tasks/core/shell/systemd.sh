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
# What ran before is gone then. Until its start is done we do not wait: Debian's pg_ctlcluster
# watches a server that answers already for two seconds more.
restart_service() { # NAME UNIT
  read_units
  before=$(started "$2")
  systemctl -q --no-block restart "$2" || return 0
  # A unit without a limit of its own would be waited for without end.
  for _ in $(seq 6000); do
    [ "$(started "$2")" = "$before" ] && has_job "$2" || return 0
    sleep 0.05
  done
}
started() { systemctl show -p InvocationID --value "$1"; }
has_job() { [ -n "$(systemctl show -p Job --value "$1")" ]; }
# Since it was told to start: who reads much data may be killed for it once, or twice.
is_failing() { [ "$(systemctl show -p NRestarts --value "$1")" -ge 3 ]; }
is_starting() { [ "$(systemctl is-active "$1")" = activating ]; }
# Another process may answer in its place, and keep it from its start.
is_started() {
  for _ in $(seq 300); do
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
