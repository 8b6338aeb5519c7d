# The answer of a check: its number, its first line, the cluster that has answered, and its status.
# They come in any order, each at once: the kernel takes a short line from one process whole.
newline='
'
answered() { # NUMBER STATUS
  said=$newline$out$newline cluster=
  case $said in
    *"${newline}cluster "*)
      cluster=${said#*"${newline}cluster "} cluster=${cluster%%"$newline"*} ;;
  esac
  first=${out%%"$newline"*}
  [ ${#first} -lt 999 ] || first=$(printf %.999s "$first")
  [ ${#cluster} -lt 999 ] || cluster=
  printf '%s\t%s\tcluster %s\tstatus %s\n' "$1" "$first" "$cluster" "$2"
}
