# What nft says of rules depends on its version, so the kernel is asked for both: those that are
# wanted are loaded into a network that ends with the command.
wanted_table() {
  printf '%s\n' "$rules" | unshare --net sh -c 'nft -f - && nft list table inet datatier'
}
present_table() { nft list table inet datatier 2>/dev/null || :; }
# Of the file, and not of the settings.
former_ports() {
  [ -r "$written" ] || return 0
  last=
  while read -r tcp dport port _; do
    [ "$tcp $dport" = 'tcp dport' ] && [ "$port" != "$last" ] || continue
    last=$port
    case $rules in *"tcp dport $port "*) ;; *) echo "$port" ;; esac
  done <"$written"
}
# Without the rules of those ports.
present_settings() {
  present_table | awk -v ports="$(former_ports)" '
    BEGIN { for (n = split(ports, all); n; n--) former[all[n]] }
    !($1 == "tcp" && $2 == "dport" && $3 in former)'
}
