# Addresses of the host without a tool of it; `any` where a socket may be bound to one to come.
grep -qsx 1 /proc/sys/net/ipv4/ip_nonlocal_bind && echo any
awk '/host LOCAL/ { print a } { a = $2 }' /proc/net/fib_trie 2>/dev/null | sort -u
cut -d ' ' -f 1 /proc/net/if_inet6 2>/dev/null || :
