# Compose says what the hash of each service would be; only a file can be given to 1.29.
command -v docker >/dev/null || { echo 'engine|absent'; exit 0; }
case $(docker --version 2>/dev/null) in podman*) echo 'engine|podman'; exit 0 ;; esac
engine=$(docker info -f '{{.ServerVersion}}|{{.DockerRootDir}}' 2>/dev/null) || engine='|'
[ "$engine" != '|' ] || { echo 'engine|down'; exit 0; }
echo "engine|${engine%%|*}"
# Debian's program of Python takes half a second to say what its own text says.
version=$(head -c 300 -- "$(command -v docker-compose)" 2>/dev/null | tr -d '\0' |
  sed -n "s/^__requires__ = 'docker-compose==\([0-9.]*\)'$/\1/p")
[ -n "$version" ] || version=$([ -z "$compose" ] || $compose version --short)
[ -z "$compose" ] || echo "compose|$compose|$version"
case $version in 1.*) glue=_ ;; *) glue=- ;; esac
for f in $others; do [ ! -e "$project/$f" ] || echo "instead|$f"; done
! grep -qs '^ *COMPOSE_FILE *=' "$project/.env" || echo 'instead|COMPOSE_FILE in .env'
[ ! -e "$project/$override" ] || echo override
ids=$(docker ps -aq --filter label=com.docker.compose.project="$stack" \
  --filter label=com.docker.compose.oneoff=False)
if [ -n "$ids" ]; then docker inspect -f "$of_container" $ids; fi
docker ps --format 'ports|{{.Names}}|{{.Label "com.docker.compose.project"}}|{{.Ports}}'
docker network ls -q | xargs -r docker network inspect -f "$of_network"
ls -d "${engine#*|}/volumes/${stack}_postgres_data/_data/"[0-9]* 2>/dev/null |
  sed -n 's,^/.*/\([0-9]*\)$,cluster|\1,p'
find "${engine#*|}/volumes/${stack}_postgres_data/_data" -maxdepth 3 -name PG_VERSION \
  ! -path '*/_data/[0-9]*/main*' ! -path '*/_data/.*' -printf 'stranger|%h\n' 2>/dev/null |
  grep -x 'stranger|/[^|]*' | sort | head -n 1
docker image inspect -f "$of_image" $(echo "$images" | sed "s/%/$glue/g") 2>/dev/null || :
if [ -n "$ids" ] && [ -n "$compose" ] && [ -d "$project/docker/images" ]; then
  file=$(mktemp -p /run); trap 'rm -f "$file"' EXIT
  printf '%s' "$COMPOSE_FILE_TEXT" | base64 -d >"$file"
  set -- -f "$file"
  [ ! -e "$project/$override" ] || set -- "$@" -f "$project/$override"
  hashes=$($compose -p "$stack" "$@" --project-directory "$project" config --hash '*' \
    2>"$file.err" </dev/null) || echo "wrong|$(tail -n 1 "$file.err" | tr '|' ' ')"
  rm -f "$file.err"
  [ -z "$hashes" ] || printf '%s\n' "$hashes" | sed 's/^/hash|/; s/ /|/2; s/ /|/'
fi
