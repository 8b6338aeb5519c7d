# A copy of the configuration that listens nowhere near the live one: it ends at once if it is bad.
as_postgres() { runuser -u postgres -- "$@"; }
try() { # INI USERLIST HBA
  said=$(mktemp) trial=$(as_postgres mktemp -d)
  as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/users" <"$2"
  as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/hba" <"$3"
  sed -E "s,^(unix_socket_dir) = .*,\\1 = $trial,; s,^(logfile|pidfile) = .*,\\1 = $trial/\\1,
    s,^auth_file = .*,auth_file = $trial/users,; s,^listen_addr = .*,listen_addr = ,
    s,^auth_hba_file = .*,auth_hba_file = $trial/hba," \
    "$1" | as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/ini"
  # Inside runuser, which waits for two seconds before it passes a signal on.
  as_postgres timeout 1 /usr/sbin/pgbouncer "$trial/ini" >"$said" 2>&1 || code=$?
  why=$(as_postgres cat "$trial/logfile" 2>/dev/null | cat - "$said" |
    grep -E ' (ERROR|FATAL|WARNING (unknown|hba|could not parse hba)) ' | head -n 1 | sed "s,$trial/ini,$ini,g") || true
  as_postgres rm -rf "$trial"; rm -f "$said"
  if [ "${code:-0}" != 124 ] || [ -n "$why" ]; then
    echo "PgBouncer refuses $ini: ${why:-it does not start}" >&2; exit 1
  fi
}
