# shellcheck disable=SC2034  # of console.sh
logins='default cli.auth'
command -v redis-cli >/dev/null || exit 0
for port in $ports; do
  [ -e /var/lib/redis/sentinel-$port/sentinel.conf ] || continue
  ask_known "$port" info 'INFO server' rights "$RIGHTS" watched 'SENTINEL MASTERS' \
    users 'ACL LIST' || :
  found=$(printf '%s\n' "$said" | awk -v before="$port " "$PARTS$KNOWN"'
    part == "info" && /^process_id:/ { pid = substr($0, 12) }
    part == "watched" && /^ +2\) "/ { print before "watches \"" word "\"" }
    part == "users" && listed { print before "\"" word "\"" }
    END { if (locked) print before "locked -"; print "pid " pid }')
  printf %s "${found%pid *}"
  if [ "$pong" = PONG ] && is_replaced "${found##*pid }"; then echo "$port replaced -"; fi
done
