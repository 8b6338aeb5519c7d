# Each image says what it has; one of them asks the archive for all of them, which takes seconds.
work=$(mktemp -d -p /run); err=$(mktemp -p /run); trap 'rm -rf "$work" "$err"' EXIT
failed() { tail -n 1 "$err" >&2; exit 1; }
for image in $images; do
  docker run --rm --network none --user root --entrypoint cat "$image" /var/lib/dpkg/status \
    >"$work/$image" 2>"$err" || failed
done
tar -C "$work" -c . |
  docker run --rm -i --user root --entrypoint sh "$image" -c "$asks" 2>"$err" || failed
