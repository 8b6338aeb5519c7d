# Compose says what the hash of each service would be; only a file can be given to 1.29.
command -v docker >/dev/null || { echo 'engine|absent'; exit 0; }
engine=$(docker info -f '{{.ServerVersion}}|{{.DockerRootDir}}' 2>/dev/null) || engine='|'
if [ "$engine" = '|' ]; then
  case $(docker --version 2>/dev/null) in
    podman*) echo 'engine|podman' ;;
    *) echo 'engine|down' ;;
  esac
  exit 0
fi
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
all=$(docker ps -a --format "$of_each")
ids=$(echo "$all" | sed -n "s/^\([0-9a-f]*\) $stack False ports|.*/\1/p")
if [ -n "$ids" ]; then docker inspect -f "$of_container" $ids; fi
echo "$all" | sed -n 's/^.* ports|/ports|/p'
docker network ls -q | xargs -r docker network inspect -f "$of_network"
ls -d "${engine#*|}/volumes/${stack}_postgres_data/_data/"[0-9]* 2>/dev/null |
  sed -n 's,^/.*/\([0-9]*\)$,cluster|\1,p'
find "${engine#*|}/volumes/${stack}_postgres_data/_data" -maxdepth 3 -name PG_VERSION \
  ! -path '*/_data/[0-9]*/main*' ! -path '*/_data/.*' -printf 'stranger|%h\n' 2>/dev/null |
  grep -x 'stranger|/[^|]*' | sort | head -n 1
# Ours keep their subnet beside what they learn; another image's data would not be read.
redis="${engine#*|}/volumes/${stack}_redis_"
for data in "$redis"master_data "$redis"replica_[0-9]*_data "$redis"sentinel_[0-9]*_data; do
  [ -e "$data/_data/prefix" ] || [ ! -d "$data/_data" ] ||
    find "$data/_data" -mindepth 1 -maxdepth 1 -size +0 \
      \( -name '*.rdb' -o -name 'appendonly*' -o -name sentinel.conf \) -printf 'unread|%h\n' -quit
done
made=$(docker image inspect -f "$of_image" $(echo "$images" | sed "s/%/$glue/g") 2>/dev/null) || :
printf '%s\n' "$made"
if [ -n "$ids" ] && [ -n "$compose" ] && [ -d "$project/docker/images" ]; then
  # Compose takes half a second, so what it said is kept, with all that it was said of. A file of
  # others may name more files.
  kept=/run/datatier-$stack.hashes was='' hashes=''
  [ ! -e "$project/$override" ] || kept=''
  mark=$({ echo "$compose $version $project $made"; echo "$COMPOSE_FILE_TEXT"
    cat "$project/.env" 2>/dev/null; } | sha256sum)
  [ ! -r "$kept" ] || { read -r was && hashes=$(cat); } <"$kept"
  if [ "$was" != "$mark" ]; then
    file=$(mktemp -p /run); trap 'rm -f "$file" "$file.err"' EXIT
    printf '%s' "$COMPOSE_FILE_TEXT" | base64 -d >"$file"
    set -- -f "$file"
    [ -n "$kept" ] || set -- "$@" -f "$project/$override"
    if hashes=$($compose -p "$stack" "$@" --project-directory "$project" config --hash '*' \
      2>"$file.err" </dev/null); then
      [ -z "$kept" ] || { printf '%s\n' "$mark" "$hashes" >"$file" && mv -f "$file" "$kept"; }
    else echo "wrong|$(tail -n 1 "$file.err" | tr '|' ' ')"; fi
  fi
  [ -z "$hashes" ] || printf '%s\n' "$hashes" | sed 's/^/hash|/; s/ /|/2; s/ /|/'
fi
