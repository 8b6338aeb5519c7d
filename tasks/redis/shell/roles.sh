# What each instance follows: its own word where it answers, else what it will do when started.
if ! command -v redis-cli >/dev/null; then
  for port in $ports; do echo absent; done; exit 0
fi
info=$(printf 'INFO %s\n' replication server)
# What the users of the settings would be, in this server's words.
tried=PING
[ -z "$TRIED" ] || tried=$(printf '%s\n' MULTI "$TRIED" 'ACL LIST' "$UNTRIED" EXEC)
for port in $ports; do
  file=/var/lib/redis/$port/redis.conf
  accepted "$port" info "$info" rights "$RIGHTS" users 'ACL LIST' tried "$tried" \
    settings "CONFIG GET *" || :
  found=$(printf '%s\n' "$said" | awk "$PARTS"'
    NR == 1 { answers = $0 == "PONG" }
    part == "info" { at = index($0, ":"); v[substr($0, 1, at - 1)] = substr($0, at + 1) }
    part == "info" && /^slave[0-9]*:.*state=online/ { online++ }
    part == "users" && word ~ /^user / && listed ||
      part == "tried" && word ~ /^user datatier:/ && listed { more = more "\n\"" word "\"" }
    part == "tried" && /OOM command/ { full = 1 }
    part == "settings" && listed { more = more (n++ % 2 ? " " : "\n=") word }
    END {
      if (v["role"] == "master") role = "master " online + 0
      else if (v["role"]) role = "replica " v["master_host"] " " v["master_port"]
      print v["process_id"] "|" role
      if (full) print "*"
      if (locked) print "!"
      else if (answers) print substr(more, 2)
    }')
  first=${found%%
*}
  role=${first#*|}
  if [ ! -e "$file" ]; then echo absent
  elif [ -n "$role" ]; then echo "$role"
  else peek "$file" sed -n 's/^replicaof /replica /p' "$file" | grep . || echo master
  fi
  [ "$found" = "$first" ] || printf '%s\n' "${found#*
}"
  if [ "$pong" = PONG ] && is_replaced "${first%%|*}"; then echo '>'; fi
done
