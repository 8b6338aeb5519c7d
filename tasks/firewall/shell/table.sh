# What nft says of rules depends on its version, so the kernel is asked for both: those that are
# wanted are loaded into a network that ends with the command.
wanted_table() {
  printf '%s\n' "$rules" | unshare --net sh -c 'nft -f - && nft list table inet datatier'
}
present_table() { nft list table inet datatier 2>/dev/null || :; }
