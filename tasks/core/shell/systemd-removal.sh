# A unit that has gone already is no error; one that goes on running is.
leave_service() { # NAME UNIT ENABLED_BY
  systemctl -q stop "$2" 2>/dev/null || :
  if systemctl -q is-active "$2"; then echo "$1 does not stop: $(last_log "$@")" >&2; exit 1; fi
  systemctl -q disable "$3" 2>/dev/null || :
  systemctl -q reset-failed "$2" 2>/dev/null || :
}
forget_units() { systemctl daemon-reload; }
