# What each instance follows: its own word where it answers, else what it will do when started.
if ! command -v redis-cli >/dev/null; then
  for port in $ports; do echo absent; done; exit 0
fi
for port in $ports; do
  file=/var/lib/redis/$port/redis.conf
  accepted "$port" || true
  role=
  [ -z "$pong" ] ||
  role=$(timeout 3 /usr/bin/redis-cli -p "$port" INFO replication 2>/dev/null |
    tr -d '\r' | awk -F: '
    { v[$1] = $2 }
    /^slave[0-9]*:.*state=online/ { online++ }
    END { if (v["role"] == "master") print "master", online + 0
          else if (v["role"]) print "replica", v["master_host"], v["master_port"] }')
  if [ ! -e "$file" ]; then echo absent
  elif [ -n "$role" ]; then echo "$role"
  else peek "$file" sed -n 's/^replicaof /replica /p' "$file" | grep . || echo master
  fi
  if locked "$port"; then echo '!'
  elif [ "$pong" = PONG ]; then
    users "$port"; tried_users "$port"; running "$port" '*' | sed 's/^/=/'
    ! is_replaced "$port" || echo '>'
  fi
done
