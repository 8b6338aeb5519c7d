command -v redis-cli >/dev/null || exit 0
for port in $ports; do
  [ -e /var/lib/redis/sentinel-$port/sentinel.conf ] || continue
  accepted "$port" || :
  if locked "$port"; then echo "$port locked -"; fi
  [ "$pong" = PONG ] || continue
  ! is_replaced "$port" || echo "$port replaced -"
  { known "$port"
     /usr/bin/redis-cli --no-raw -p "$port" SENTINEL MASTERS | sed -n 's/^ *2) "/watches "/p'
     users "$port"; } | sed "s/^/$port /"
done
