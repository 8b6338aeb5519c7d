# An identity in the file proves that Sentinel can save what it learns.
accepted "$port" || { echo "${pong:-no answer to PING}"; exit 1; }
asks_for_password "$address" "$port"
answer=$(/usr/bin/redis-cli -p "$port" SENTINEL CKQUORUM "$name")
case $answer in OK*) ;; *) echo "$answer"; exit 1 ;; esac
id=$(/usr/bin/redis-cli -p "$port" SENTINEL MYID)
timeout 5 grep -D skip -q "^sentinel myid $id" "/var/lib/redis/sentinel-$port/sentinel.conf" ||
  { echo "cannot write its configuration file"; exit 1; }
others=$(/usr/bin/redis-cli --no-raw -p "$port" SENTINEL MASTERS | sed -n 's/^ *2) "//p' |
  grep -vx "$name\"" | tr -d '"' | paste -s -d ,)
/usr/bin/redis-cli -p "$port" SENTINEL MASTER "$name" | paste -d ' ' - - |
  awk -v also="$(also "$port")${others:+; watches $others too}" -v replicas="$replicas" \
    -v sentinels="$sentinels" -v more="$may_have_more" '
  { v[$1] = $2 }
  END {
    print "master " v["ip"] ":" v["port"] ", " v["num-slaves"] " replicas, " \
      v["num-other-sentinels"] " other Sentinels" also
    enough = more ? v["num-slaves"] >= replicas + 0 : v["num-slaves"] == replicas
    exit !(enough && v["num-other-sentinels"] == sentinels)
  }'
