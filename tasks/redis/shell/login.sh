# shellcheck shell=sh disable=SC2154  # LOGIN_PASSWORD comes before it
# Who is not let in takes an instance for down. One that is down itself has its users in its file
# when it starts.
require_login() { # USER IP:PORT...
  user=$1
  shift
  for each; do
    link_to "${each%:*}" "${each##*:}"
    said=$(REDISCLI_AUTH=$LOGIN_PASSWORD timeout 2 /usr/bin/redis-cli $via --user "$user" \
      -h "${each%:*}" -p "${each##*:}" PING 2>&1) || :
    case $said in *WRONGPASS* | *NOAUTH* | *NOPERM*)
      echo "redis $each does not know the user $user: run on all Redis hosts at once" >&2
      exit 1 ;;
    esac
  done
}
