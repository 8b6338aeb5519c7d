# shellcheck disable=SC2154  # the passwords come before it
keep_one() { # PASSWORD FILE
  rm -rf "/etc/redis/$2.new"
  (umask 077; set -C; printf '%s\n' "$1" >"/etc/redis/$2.new")
  mv -fT "/etc/redis/$2.new" "/etc/redis/$2"
}
keep_password() { keep_one "$KEPT_PASSWORD" redis-cli.auth; }
keep_admin() { keep_one "$REDIS_ADMIN_PASSWORD" redis-admin.auth; }
