# `master`, `replica` or `sentinel`, its address and its flags. What is empty has an empty line.
known() { # PORT
  printf "SENTINEL %s $name\n" MASTER REPLICAS SENTINELS |
    /usr/bin/redis-cli -p "$1" | awk '
    key == "" { key = $0; next }
    key == "ip" { ip = $0 }
    key == "port" { port = $0 }
    key == "flags" {
      kind = /sentinel/ ? "sentinel" : /slave/ ? "replica" : "master"
      print kind, ip ":" port, $0 }
    { key = "" }'
}
