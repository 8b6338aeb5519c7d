up() {
  $compose up -d --no-deps --no-build "$@" >"$err" 2>&1 </dev/null || {
    why=$(grep -E 'ERROR: for|^Error|rror response' "$err" | head -n 1)
    echo "docker-compose up: ${why:-$(tail -n 1 "$err")}" >&2; exit 1; }
}
leave() { # NETWORK
  $compose down >"$err" 2>&1 </dev/null ||
    { echo "docker-compose down: $(tail -n 1 "$err")" >&2; exit 1; }
  docker network rm "$1" >/dev/null 2>&1 || :
}
keep_password() {
  keep_one "$KEPT_PASSWORD" redis-cli.auth
  keep_one "$REDIS_ADMIN_PASSWORD" redis-admin.auth
}
keep_one() { # PASSWORD FILE
  (umask 077; printf '%s\n' "$1" >docker/redis/.auth.new)
  chown "0:$redis_group" docker/redis/.auth.new; chmod 640 docker/redis/.auth.new
  mv docker/redis/.auth.new "docker/redis/$2"
}
cd "$project" || exit 1
[ -e docker/redis/redis-cli.auth ] || keep_password
