# Where a standby is, once it has read all that the server has sent which has ended.
for _ in $(seq 100); do
  position=$(echo "SELECT pg_last_wal_replay_lsn() WHERE pg_last_wal_replay_lsn() = pg_last_wal_receive_lsn()
    AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')" |
    closed_psql "$data" "$port" postgres)
  [ -z "$position" ] || { echo "$position"; exit 0; }
  sleep 0.1
done
echo 'it still reads' >&2; exit 1
