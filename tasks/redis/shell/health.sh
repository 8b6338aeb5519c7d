# An instance that takes itself for the master while Sentinel names another loses what it is told.
accepted "$port" || { echo "${pong:-no answer to PING}"; exit 1; }
asks_for_password "$address" "$port"
has_users "$port" $acl_users
changed=$(running "$port" appendonly save | grep -vxF -e "$appendonly" -e "$save" | cut -d ' ' -f 1 |
  paste -s -d ,)
[ -z "$changed" ] || { echo "$changed: changed by hand; the next run sets it back"; exit 1; }
leader=$(for sentinel in $sentinels; do
  timeout 2 /usr/bin/redis-cli -h "${sentinel%:*}" -p "${sentinel#*:}" \
    SENTINEL GET-MASTER-ADDR-BY-NAME "$name" 2>/dev/null | paste -s -d ' ' | grep '^[0-9]' && break
done)
if /usr/bin/redis-cli -p "$port" INFO replication | grep -q '^role:master' &&
   [ "${leader:-$me}" != "$me" ]; then
  echo "master, but Sentinel says $leader"; exit 1
fi
also=$(also "$port" $acl_users)
/usr/bin/redis-cli -p "$port" INFO replication | tr -d '\r' | awk -F: -v also="$also" '
  { v[$1] = $2 }
  END {
    if (v["role"] == "master") print "master, " v["connected_slaves"] " replicas" also
    else {
      up = v["master_link_status"] == "up"
      print "replica of " v["master_host"] ":" v["master_port"] (up ? "" : ", link down") also
      exit !up
    }
  }'
