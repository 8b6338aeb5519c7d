# Before that pg_control is of the time line that has ended, and a backup refuses it.
echo CHECKPOINT | closed_psql "$data" "$port" postgres
