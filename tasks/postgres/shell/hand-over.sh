# Ends the server while clients wait, so that it can start as a standby only.
ask() { printf '%s\n' "$1" | closed_psql "$data" "$port" postgres; }
refuse() { echo "PostgreSQL goes on as before, $target does not take over: $1" >&2; exit 1; }
# One that has just started connects within a second or two.
for _ in $(seq 100); do
  behind=$(ask "SELECT greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint
    FROM pg_stat_replication WHERE application_name = '$slot' AND state = 'streaming'")
  [ "${behind:-$((most_bytes + 1))}" -gt "$most_bytes" ] || break
  sleep 0.1
done
[ -n "$behind" ] || refuse 'it does not follow'
[ "$behind" -le "$most_bytes" ] || refuse "it is $behind bytes behind: run again when it has them"
jobs=$(ask "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgBackRest%'")
[ "$jobs" = 0 ] || refuse 'a backup is being made: run again when it has ended'
# One that ends waits until all of its WAL is archived, for minutes where the backup host is away.
if [ "$(ask 'SHOW archive_mode')" != off ]; then
  last=$(ask 'SELECT pg_walfile_name(pg_switch_wal())')
  for _ in $(seq 100); do
    left=$(ask "SELECT count(*) FROM pg_ls_archive_statusdir()
      WHERE name LIKE '%.ready' AND split_part(name, '.', 1) <= '$last'")
    [ "$left" != 0 ] || break
    sleep 0.1
  done
  [ "$left" = 0 ] || refuse "$left files of WAL wait for the archive: see the health table"
fi
# What is written before clients wait need not be written while they do.
ask CHECKPOINT
hold
# Without a word of what makes the other one lead everything is as before.
watch() {
  n=0
  while [ -e "$handing" ] || [ -e "$handed" ]; do
    [ $((n += 1)) -le $((10 * patience)) ] || break
    sleep 0.1
  done
  take_back
}
install -d -m 700 "$marks"
rm -f "$handed" "$taken"
echo "$target" >"$handing.new"; mv "$handing.new" "$handing"
(trap '' HUP INT TERM; watch) >/dev/null 2>&1 </dev/null &
trap 'take_back || :' EXIT
stop_service postgres "$server_unit"
[ "$(ended 'Database cluster state')" = 'shut down' ] || refuse 'this one did not end well: see its log'
runuser -u postgres -- touch "$data/standby.signal"
trap - EXIT
