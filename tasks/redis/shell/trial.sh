new=$(mktemp); trap 'rm -f "$new"' EXIT
