# A copy of the configuration that listens nowhere near the live one: it ends at once if it is bad.
as_postgres() { runuser -u postgres -- "$@"; }
try() { # INI USERLIST HBA
  trial=$(as_postgres mktemp -d)
  as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/users" <"$2"
  as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/hba" <"$3"
  sed -E "s,^(unix_socket_dir) = .*,\\1 = $trial,; s,^(logfile|pidfile) = .*,\\1 = $trial/\\1,
    s,^auth_file = .*,auth_file = $trial/users,; s,^listen_addr = .*,listen_addr = ,
    s,^auth_hba_file = .*,auth_hba_file = $trial/hba," \
    "$1" | as_postgres sh -c 'umask 077; cat >"$1"' sh "$trial/ini"
  # It says that when it has read and made everything.
  as_postgres sh -c '/usr/sbin/pgbouncer "$1/ini" >"$1/said" 2>&1 &
    for _ in $(seq 200); do
      if grep -q " process up: " "$1/said" || ! kill -0 $!; then break; fi; sleep 0.05
    done; kill -KILL $!' sh "$trial" 2>/dev/null || dead=1
  why=$(as_postgres sh -c 'cat "$1/logfile" "$1/said"' sh "$trial" 2>/dev/null |
    grep -E ' (ERROR|FATAL|WARNING (unknown|hba|could not parse hba)) ' | head -n 1 | sed "s,$trial/ini,$ini,g") || true
  as_postgres rm -rf "$trial"
  if [ -n "${dead:-}$why" ]; then
    echo "PgBouncer refuses $ini: ${why:-it does not start}" >&2; exit 1
  fi
}
