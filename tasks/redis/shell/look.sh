# What runs is the truth: a stranger at the address of the table has to be refused.
asks_for_password() { # ADDRESS PORT
  refusal=$(unset REDISCLI_AUTH; timeout 3 /usr/bin/redis-cli $via -h "$1" -p "$2" PING 2>&1) || :
  case $refusal in
    *NOAUTH*) return ;;
    *PONG* | *DENIED*) echo "asks for no password" ;;
    *) echo "no answer at $1: $refusal" ;;
  esac
  exit 1
}
speaks_as_wanted() {
  case $via in *insecure) echo "clients refuse its certificate: the next run renews it"; exit 1 ;; esac
  [ "${REDIS_TLS:-}" = "${via:+yes}" ] ||
    { echo "speaks $([ -n "$via" ] || echo 'no ')TLS: the next run changes that"; exit 1; }
}
# For awk, after PARTS: users beside those in `known`, and one of them that is not there; and whether
# an address is none of the `instances`, where these are known.
# shellcheck disable=SC2034  # of the scripts that come after
LOOK='
  function wrong(line) { print line; exit 1 }
  function also(  said, n) {
    for (n = 1; n <= users; n++) if (!(who[n] in expected)) said = said "," who[n]
    return said == "" ? "" : "; ACL users that are not in the settings: " substr(said, 2)
  }
  function lost(  n, count, all) {
    count = split(known, all, " ")
    for (n = 1; n <= count; n++) if (!(all[n] in there)) return all[n]
    return ""
  }
  function is_foreign(address) {
    return instances ~ /[^ ]/ && !index(instances, " " address " ")
  }
  BEGIN { expected["default"]; for (n = split(known, all, " "); n; n--) expected[all[n]] }
  part == "users" && listed && word ~ /^user / {
    split(word, words, " "); who[++users] = words[2]; there[words[2]] }'
