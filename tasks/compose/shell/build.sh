cd "$project" || exit 1
log=$(mktemp -p /run); trap 'rm -f "$log"' EXIT
for service in $services; do
  $compose build "$service" >"$log" 2>&1 </dev/null || {
    echo "the image of $service could not be built: $(reason "$log")" >&2; exit 1; }
done
