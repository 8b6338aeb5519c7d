# What hands have started answers too, and keeps the service from its start.
is_of_service() { # PID
  [ -z "$owner" ] || grep -q "/$owner\$" "/proc/$1/cgroup" ||
    [ "$1" = "$(cat /etc/sv/postgres/supervise/pid)" ]
}
