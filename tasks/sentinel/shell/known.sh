# `master`, `replica` or `sentinel`, its address and its flags: for awk, after PARTS.
KNOWN='
  part ~ /^(master|replicas|sentinels)$/ && listed {
    if (names++ % 2 == 0) { key = word; next }
    if (key == "ip") ip = word
    if (key == "port") at = word
    if (key == "flags") {
      kind = word ~ /sentinel/ ? "sentinel" : word ~ /slave/ ? "replica" : "master"
      print before kind, ip ":" at, word
    }
  }'
ask_known() { # PORT [NAME COMMANDS]...
  accepted "$@" master "SENTINEL MASTER $name" replicas "SENTINEL REPLICAS $name" \
    sentinels "SENTINEL SENTINELS $name"
}
known() { # PORT
  ask_known "$1" || :
  printf '%s\n' "$said" | awk "$PARTS$KNOWN"
}
