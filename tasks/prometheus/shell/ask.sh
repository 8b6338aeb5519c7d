# A request with the password, which no process list shows; what a file of the user says of curl counts for nothing.
ask() { # URL [OPTIONS]
  printf '%s\n' "$MONITORING_LOGIN" |
    curl -q -sS --fail-with-body -m 10 --noproxy '*' ${monitoring_authority:+--cacert "$monitoring_authority"} -K - "$@"
}
take() { # NAME URL
  said=$(ask "$2" -X POST 2>&1) || { echo "$1 refuses its configuration: $said" >&2; exit 1; }
}
