# Both views read the files, not the server's memory: a bad line is found before it is loaded. A
# parameter that waits for a restart is listed there as not applied, which is no mistake. What a
# checkpoint writes before the restart need not be written while clients wait.
port=$(runuser -u postgres -- sed -n 4p "$data/postmaster.pid")
ask() { printf '%s\n' "$1" | closed_psql "$data" "$port" postgres; }
bad=$(ask "SELECT coalesce(name || ': ', '') || error FROM pg_file_settings
             WHERE error IS NOT NULL AND NOT $waits
           UNION ALL SELECT 'pg_hba.conf line ' || line_number || ': ' || error
             FROM pg_hba_file_rules WHERE error IS NOT NULL" | head -n 1)
if [ -n "$bad" ]; then echo "PostgreSQL keeps its old configuration: $bad" >&2; exit 1; fi
ask 'SELECT pg_reload_conf()' >/dev/null; sleep 0.5
if [ "$(ask 'SELECT count(*) FROM pg_settings WHERE pending_restart')" != 0 ]; then
  ask CHECKPOINT; again postgres "$unit"
fi
