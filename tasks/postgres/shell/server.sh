# What a server says of itself, its roles, its databases and their content: a line of JSON each.
[ -e "$data/PG_VERSION" ] || { echo absent; exit 0; }
down=down
[ ! -e "$data/standby.signal" ] || down='down standby'
{ read -r pid && read -r port; } <<EOF || { echo "$down"; exit 0; }
$(peek "$data/postmaster.pid" sed -n '1p;4p' "$data/postmaster.pid" 2>/dev/null)
EOF
[ -d "/proc/${pid:-none}" ] || { echo "$down"; exit 0; }
texts=$data/pg_stat_tmp/pgss_query_texts.stat
kept=$(peek "$texts" cat "$texts" 2>/dev/null | tr '\n\0' ' \n' |
  grep -ciaE '^[[:blank:]]*(create|alter) +(role|user|group|subscription|server) .*password') || :
is_of_service "$pid" 2>/dev/null && by=service || by=$pid
echo "up $port ${kept:-0} $by"
# One that hangs is asked once; it refuses no client before it has started.
pg_isready -q -t 10 -h /var/run/postgresql -p "$port" || [ $? = 1 ] || exit 0
# shellcheck disable=SC2034  # of closed_psql
within=30 version=$(version_of "$data") || :
ask() { closed_psql "$data" "$port" "$1" | tr -d '\n'; echo; }
of_itself() {
  exec 3>&1
  why=$(printf '%s;\n' "$facts" | ask postgres 2>&1 >&3 3>&-)
  ! printf '%s\n' "$why" | grep -m 1 -E '^(psql:|FATAL|ERROR)'
}
# Side by side, in two of the sessions that a full server keeps for its superuser.
{
  # shellcheck disable=SC2034  # of closed_psql
  printf '%s;\n' "$used" | (plain=1; ask postgres)
  printf '%s;\n' "$names" | closed_psql "$data" "$port" postgres | while IFS= read -r db; do
    echo "$db"; printf '%s;\n' "$database_facts" | ask "$db"
  done
} | { of_itself && cat || :; }
