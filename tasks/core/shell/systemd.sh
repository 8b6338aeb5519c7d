# What a boot starts takes no reading of all units, which update-rc.d causes all the same.
enable_service() {
  case $(systemctl is-enabled "$2" 2>/dev/null) in
    masked*) systemctl -q unmask "$2" ;;
    enabled) return 0 ;;
  esac
  systemctl -q --no-reload enable "$2" 2>/dev/null
}
start_service() { restart_service "$@"; }
# A unit without a limit of its own would be waited for without end.
restart_service() { systemctl daemon-reload; timeout 330 systemctl restart "$2" || true; }
is_started() {
  for _ in $(seq 50); do
    [ "$(systemctl is-active "$2")" = activating ] || return 0
    sleep 0.1
  done
  echo "$1 answers, but systemd still waits for its start: $(last_log "$@")" >&2; exit 1
}
stop_service() { systemctl stop "$2"; }
# Lines by hand that say what runs or as whom become comments.
own_again() { # UNIT
  for f in "/etc/systemd/system/$1.d"/*.conf; do
    case $f in */datatier*) continue ;; esac
    sed -Ei --follow-symlinks ':a; /\\$/ { N; ba }
      /^[ \t]*((ExecStart|User|Group|Root(Directory|Image))[ \t]*=|ExecStartPre[ \t]*=[ \t]*$)/ s/^/# /Mg' \
      "$f"
  done
}
