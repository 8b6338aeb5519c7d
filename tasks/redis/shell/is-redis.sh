# Only the user redis listens there: anybody else would be told the password.
is_redis() { # PORT
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
  awk -v port="$(printf %04X "$1")" -v uid="$(id -u redis)" '
    BEGIN {
      local["0100007F:" port]; local["00000000:" port]
      local["00000000000000000000000000000000:" port]
      local["0000000000000000FFFF00000100007F:" port]
    }
    $4 == "0A" && $2 in local { if ($8 == uid) ours++; else others++ }
    END { exit !(ours && !others) }'
}
