# shellcheck disable=SC2154  # given
left() { # FILE...: days until the first certificate in them ends; fails where one cannot be read
  ends=$(cat "$@" | openssl storeutl -noout -text -certs /dev/stdin 2>/dev/null |
    sed -n 's/ *Not After *: //p' | date -f - +%s | sort -n)
  [ "$(printf '%s\n' "$ends" | grep -c .)" = "$(cat "$@" | grep -c '^-----BEGIN CERT')" ] || return 1
  [ -z "$(grep -L '^-----BEGIN CERT' "$@")" ] || return 1
  echo $(((${ends%%[!0-9]*} - $(date +%s)) / 86400))
}
found=
for file in "$authority" $certificates; do [ ! -e "$file" ] || found="$found $file"; done
[ -n "$found" ] || { echo "$authority is missing"; exit 1; }
# All at once, for openssl takes 25 ms to begin on Debian 12; which of them it is where one is bad.
# shellcheck disable=SC2086  # words
least=$(left $found) && [ "$least" -ge "$days" ] && { echo "valid for $least days"; exit; }
bad=
for file in $found; do
  if ! least=$(left "$file"); then bad="$bad, $file: cannot be read"
  elif [ "$least" -lt 0 ]; then bad="$bad, $file: has expired"
  elif [ "$least" -lt "$days" ]; then bad="$bad, $file: $least days left"; fi
done
[ -n "$bad" ] || { echo "the certificates changed meanwhile; run again"; exit 1; }
echo "${bad#, }; $remedy"; exit 1
