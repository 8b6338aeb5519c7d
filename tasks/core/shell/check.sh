# The answer of a check: its first line, the cluster that has answered, and its status.
answered() { # STATUS
  printf '%s\tcluster %s\tstatus %s\n' "$(printf '%s\n' "$out" | head -n 1)" \
    "$(printf '%s\n' "$out" | sed -n 's/^cluster //p' | head -n 1)" "$1"
}
