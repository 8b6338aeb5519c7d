# Only the user redis listens there: anybody else would be told the password.
is_redis() { # PORT
  : "${redis_uid:=$(id -u redis)}"
  awk -v port="$(printf %04X "$1")" -v uid="$redis_uid" '
    BEGIN {
      local["0100007F:" port]; local["00000000:" port]
      local["00000000000000000000000000000000:" port]
      local["0000000000000000FFFF00000100007F:" port]
    }
    $4 == "0A" && $2 in local { if ($8 == uid) ours++; else others++ }
    END { exit !(ours && !others) }' /proc/net/tcp*
}
