# shellcheck disable=SC2154  # given
least='' wrong=''
for file in "$authority" $certificates; do
  [ -e "$file" ] || continue
  ends=$(openssl storeutl -noout -text -certs "$file" 2>/dev/null | sed -n 's/ *Not After *: //p')
  [ -n "$ends" ] || { wrong="$file cannot be read"; continue; }
  # The first to end of all that are in it.
  left=$((($(printf '%s\n' "$ends" | date -f - +%s | sort -n | head -n 1) - $(date +%s)) / 86400))
  [ "$left" -ge "$days" ] || wrong="$file: $left days left; $remedy"
  [ "$left" -ge 0 ] || wrong="$file: has expired; $remedy"
  [ -n "$least" ] && [ "$left" -ge "$least" ] || least=$left
done
[ -z "$wrong" ] || { echo "$wrong"; exit 1; }
[ -n "$least" ] || { echo "$authority is missing"; exit 1; }
echo "valid for $least days"
