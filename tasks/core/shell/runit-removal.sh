leave_service() { # NAME
  if sv status "/etc/sv/$1" >/dev/null 2>&1; then
    sv -w 300 down "/etc/sv/$1" >/dev/null 2>&1 || {
      echo "$1 does not stop: $(last_log "$@")" >&2; exit 1; }
  fi
  rm -f "/etc/service/$1"
  # Its supervisor may stay for its log, to which a job that cron has started goes on writing.
  sv -w 3 exit "/etc/sv/$1" >/dev/null 2>&1 || :
}
forget_units() { :; }
