# Whose replica it is may be another's when it comes back.
root=$(docker info -f '{{.DockerRootDir}}')
take() { # CONTAINER VOLUME HOW
  leave_service "$1" "$1"
  [ ! -d "$root/volumes/$2/_data" ] || within "$root/volumes/$2/_data" rm -f redis.conf
  [ "$3" != destroy ] || docker volume rm "$2" >/dev/null
}
