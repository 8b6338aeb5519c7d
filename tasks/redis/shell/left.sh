# An instance that does not answer is not the master, whatever its file says.
auth=$(glance /etc/redis/redis-cli.auth); export REDISCLI_AUTH="$auth"
for f in "$records"/redis-[0-9]*.active; do
  port=${f##*/redis-}; port=${port%.active}
  case " $ports " in *" $port "*) continue ;; esac
  [ -e "$f" ] || continue
  timeout 3 redis-cli -p "$port" INFO replication 2>/dev/null | tr -d '\r' |
    awk -F: -v port="$port" '
      { v[$1] = $2 }
      END { if (v["role"] == "master") print "role", port, "master", v["connected_slaves"]
            else if (v["role"]) print "role", port, "replica" }'
done
