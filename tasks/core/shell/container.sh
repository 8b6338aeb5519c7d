# Its project creates it, and its engine starts it again.
enable_service() { :; }
start_service() { docker start "$2" >/dev/null; }
is_failing() { false; }
is_starting() { false; }
is_started() { :; }
restart_service() { docker restart -t 300 "$2" >/dev/null; }
stop_service() { docker stop -t 300 "$2" >/dev/null; }
reload() { # NAME CONTAINER SCRIPT
  said=$(inside "$2" "$3") || exit 1
  case $said in *!restart*) again "$1" "$2" ;; esac
}
