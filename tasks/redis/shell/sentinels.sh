command -v redis-cli >/dev/null || exit 0
export REDISCLI_AUTH="$REDIS_PASSWORD"
for sentinel in $sentinels; do
  {
    link_to "${sentinel%:*}" "${sentinel#*:}"
    said=$(printf "SENTINEL %s $name\n" GET-MASTER-ADDR-BY-NAME CKQUORUM |
      timeout 2 /usr/bin/redis-cli $via -h "${sentinel%:*}" -p "${sentinel#*:}" 2>/dev/null)
    # The lines of an answer become one.
    set -f
    case $said in [0-9]*) echo $said ;; esac
  } &
done
wait
