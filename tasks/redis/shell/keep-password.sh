# shellcheck disable=SC2154  # REDIS_PASSWORD comes before it
rm -rf /etc/redis/redis-cli.auth.new
(umask 077; set -C; printf '%s
' "$REDIS_PASSWORD" >/etc/redis/redis-cli.auth.new)
mv -fT /etc/redis/redis-cli.auth.new /etc/redis/redis-cli.auth
