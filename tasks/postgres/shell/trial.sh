# A scratch server with these files, beside the live one: it knows every reason not to start.
as_postgres() { runuser -u postgres -- "$@"; }
trial=$(as_postgres mktemp -d -p /var/tmp)
trap 'as_postgres "$bin/pg_ctl" stop -s -m immediate -D "$trial/data" 2>/dev/null
  as_postgres rm -rf "$trial"' EXIT
# What stands there as a link is tried as the file that will take its place.
into() { as_postgres sh -c 'rm -f "$1"; umask 077; cat >"$1"' sh "$trial/etc/$1"; }
{
  as_postgres cp -R "$etc" "$trial/etc" && printf %s "$TRIAL_CONFIGURATION" | into "$file" &&
  printf %s "$TRIAL_ACCESS" | into pg_hba.conf
} 2>/dev/null || {
  echo "PostgreSQL keeps its old settings, since postgres cannot read or write $etc" >&2; exit 1; }
as_postgres "$bin/initdb" -D "$trial/data" --no-sync --locale C --encoding UTF8 >/dev/null
options="-c data_directory=$trial/data -c config_file=$trial/etc/postgresql.conf"
options="$options -c hba_file=$trial/etc/pg_hba.conf -c unix_socket_directories=$trial"
options="$options -c port=$((49152 + $$ % 16384)) -c external_pid_file= -c archive_mode=off"
options="$options -c huge_pages=off -c logging_collector=off -c log_destination=stderr"
options="$options -c log_min_messages=log -c lc_messages=C"
as_postgres "$bin/pg_ctl" start -s -t 60 -D "$trial/data" -l "$trial/log" -o "$options" \
  >/dev/null 2>&1 || {
  said='s/^.*(LOG|ERROR|FATAL):  //p; s/^.*CONTEXT:  /at /p'
  bad=$(as_postgres sed -nE "$said" "$trial/log" 2>/dev/null |
    grep -vE '^(starting PostgreSQL|listening on|database system)' | head -n 2 | paste -s -d ' ' |
    sed "s,$trial/etc,$etc,g")
  echo "PostgreSQL keeps its old settings, since it would not start with the new ones:" \
    "${bad:-pg_ctl failed}" >&2
  exit 1
}
