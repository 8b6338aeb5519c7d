# Under other names until all are there: one that cannot be built changes nothing.
cd "$project" || exit 1
log=$(mktemp -p /run) made=
trap 'rm -f "$log"; [ -z "$made" ] || docker rmi $made >/dev/null 2>&1 || :' EXIT
build() { # SERVICE OPTIONS
  service=$1; shift
  $compose -p "$newer" build --force-rm "$@" "$service" >"$log" 2>&1 </dev/null || {
    echo "the image of $service could not be built: $(reason "$log")" >&2; exit 1; }
  made="$made $newer$glue$service"
}
how=--no-cache
for service in $fresh; do
  build "$service" $how
  # The engine's own builder has built all that the file has before it, and takes what is newest.
  ! grep -q '^Step 1/' "$log" || how=
done
# What another one is built on is there by now.
for service in $below; do build "$service"; done
for each in $names; do docker tag "$newer$glue${each%%=*}" "${each#*=}"; done
