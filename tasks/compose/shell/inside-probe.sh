# What a container says of a part of itself, or what is told where it does not run.
# shellcheck disable=SC2154  # the script is one of the variables
err=$(mktemp -p /run); trap 'rm -f "$err"' EXIT
printf '%s\n' "$script" | docker exec -i "$container" sh 2>"$err" && exit 0
status=$?
gone='No such container|is not running|is restarting|Cannot connect|docker: not found|using podman'
if grep -qiE "$gone" "$err"; then
  stopped
  exit 0
fi
cat "$err" >&2; exit $status
