leave_service() { # NAME CONTAINER
  docker stop "$2" >/dev/null
  docker rm "$2" >/dev/null
}
forget_units() { :; }
