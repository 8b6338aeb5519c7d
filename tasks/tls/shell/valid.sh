# shellcheck disable=SC2154  # given
least='' wrong=''
for file in "$authority" "$root"/*/certificate.pem; do
  [ -e "$file" ] || continue
  end=$(openssl x509 -in "$file" -noout -enddate 2>/dev/null) || { wrong="$file cannot be read"; continue; }
  left=$((($(date -d "${end#*=}" +%s) - $(date +%s)) / 86400))
  [ "$left" -ge "$days" ] || wrong="$file: $left days left; a run renews it"
  [ "$left" -ge 0 ] || wrong="$file: has expired; a run renews it"
  [ -n "$least" ] && [ "$left" -ge "$least" ] || least=$left
done
[ -z "$wrong" ] || { echo "$wrong"; exit 1; }
[ -n "$least" ] || { echo "$authority is missing"; exit 1; }
echo "valid for $least days"
