# An identity in the file proves that Sentinel can save what it learns.
# shellcheck disable=SC2034  # of console.sh
logins='default cli.auth'
accepted "$port" users 'ACL LIST' quorum "SENTINEL CKQUORUM $name" id 'SENTINEL MYID' \
  watched 'SENTINEL MASTERS' master "SENTINEL MASTER $name" ||
  { echo "${pong:-no answer to PING}"; exit 1; }
asks_for_password "$address" "$port"
speaks_as_wanted
answer=$(printf '%s\n' "$said" | awk -v replicas="$replicas" -v sentinels="$sentinels" \
  -v more="$may_have_more" -v name="$name" -v instances=" $instances " "$PARTS$LOOK"'
  part == "quorum" { quorum = $0; sub(/^\(error\) /, "", quorum) }
  part == "id" { id = substr($0, 2, length($0) - 2) }
  part == "watched" && /^ +2\) "/ && word != name { others = others "," word }
  part == "master" && listed {
    if (names++ % 2 == 0) { key = word; next }
    v[key] = word
  }
  END {
    if (v["ip"] != "" && is_foreign(v["ip"] ":" v["port"]))
      wrong("- watches " v["ip"] ":" v["port"] ", which is not in the inventory")
    if (quorum !~ /^OK/) wrong("- " quorum)
    print id " master " v["ip"] ":" v["port"] ", " v["num-slaves"] " replicas, " \
      v["num-other-sentinels"] " other Sentinels" also() \
      (others == "" ? "" : "; watches " substr(others, 2) " too")
    enough = more ? v["num-slaves"] >= replicas + 0 : v["num-slaves"] == replicas
    exit !(enough && v["num-other-sentinels"] == sentinels)
  }')
status=$? id=${answer%% *}
if [ "$id" != - ]; then
  timeout 5 grep -D skip -q "^sentinel myid $id" "/var/lib/redis/sentinel-$port/sentinel.conf" ||
    { echo "cannot write its configuration file"; exit 1; }
fi
echo "${answer#* }"
exit $status
