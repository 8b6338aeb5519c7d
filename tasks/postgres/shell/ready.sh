# shellcheck disable=SC2154
pid=$(peek "$data/postmaster.pid" head -n 1 "$data/postmaster.pid") || exit 1
is_of_service "$pid" && echo 'SELECT 1' | closed_psql "$data" "$port" postgres
