# The answer of a check: its first line, the cluster that has answered, and its status.
newline='
'
answered() { # STATUS
  said=$newline$out$newline cluster=
  case $said in
    *"${newline}cluster "*)
      cluster=${said#*"${newline}cluster "} cluster=${cluster%%"$newline"*} ;;
  esac
  printf '%s\tcluster %s\tstatus %s\n' "${out%%"$newline"*}" "$cluster" "$1"
}
