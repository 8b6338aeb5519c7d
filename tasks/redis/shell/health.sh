# An instance that takes itself for the master while Sentinel names another loses what it is told.
accepted "$port" users 'ACL LIST' kept 'CONFIG GET appendonly save' info 'INFO replication' ||
  { echo "${pong:-no answer to PING}"; exit 1; }
asks_for_password "$address" "$port"
# CLIENT PAUSE holds back what writes, and PUBLISH, which a replica takes too. SETRANGE with nothing
# is a write that leaves no key: memory that is full or replicas that are missing refuse it.
taken=$(printf '%s\n' 'PUBLISH datatier:health ""' 'SETRANGE datatier:health 0 ""' |
  timeout 3 /usr/bin/redis-cli $as $via -p "$port" 2>/dev/null) ||
  { echo 'answers, but takes no writes: redis-cli CLIENT UNPAUSE'; exit 1; }
case ${taken#*
} in
  [0-9]* | READONLY*) ;;
  *) printf 'takes no writes: %s\n' "${taken#*
}"; exit 1 ;;
esac
speaks_as_wanted
leader=$(for sentinel in $sentinels; do
  link_to "${sentinel%:*}" "${sentinel#*:}"
  named=$(REDISCLI_AUTH=$REDIS_PASSWORD timeout 2 /usr/bin/redis-cli $via \
    -h "${sentinel%:*}" -p "${sentinel#*:}" SENTINEL GET-MASTER-ADDR-BY-NAME "$name" 2>/dev/null)
  # Two lines become one.
  case $named in [0-9]*) echo $named; break ;; esac
done)
printf '%s\n' "$said" | awk -v known="$acl_users" -v appendonly="$appendonly" -v save="$save" \
  -v leader="${leader:-$me}" -v me="$me" -v instances=" $instances " "$PARTS$LOOK"'
  part == "kept" && listed {
    if (names++ % 2 == 0) { key = word; next }
    line = key " " word
    if (line != appendonly && line != save) changed = changed "," key
  }
  part == "info" { at = index($0, ":"); v[substr($0, 1, at - 1)] = substr($0, at + 1) }
  END {
    if ((user = lost()) != "") wrong("has no ACL user " user)
    if (changed != "") wrong(substr(changed, 2) ": changed by hand; the next run sets it back")
    if (v["role"] == "master" && leader != me) wrong("master, but Sentinel says " leader)
    if (v["role"] == "master") print "master, " v["connected_slaves"] " replicas" also()
    else {
      up = v["master_link_status"] == "up"
      followed = v["master_host"] ":" v["master_port"]
      if (is_foreign(followed)) wrong("follows " followed ", which is not in the inventory")
      print "replica of " followed (up ? "" : ", link down") also()
      exit !up
    }
  }'
