command -v redis-cli >/dev/null || exit 0
export REDISCLI_AUTH="$REDIS_PASSWORD"
for sentinel in $sentinels; do
  {
    link_to "${sentinel%:*}" "${sentinel#*:}"
    printf "SENTINEL %s $name\n" GET-MASTER-ADDR-BY-NAME CKQUORUM |
      timeout 2 /usr/bin/redis-cli $via -h "${sentinel%:*}" -p "${sentinel#*:}" 2>/dev/null |
      paste -s -d ' ' | grep '^[0-9]'
  } &
done
wait
