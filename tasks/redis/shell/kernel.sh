for file in $files; do
  value=''
  { IFS= read -r value <"$file"; } 2>/dev/null || :
  echo "$file=$value:$([ ! -w "$file" ] || echo writable)"
done
