err=$(mktemp -p /run); trap 'rm -f "$err"' EXIT
inside() { # CONTAINER SCRIPT
  printf '%s\n' "$2" | docker exec -i "$1" sh 2>"$err" || {
    echo "$1: $(tail -n 1 "$err")" >&2; return 1; }
}
