# Takes away what wins over our file: HOW NAME LINE FILE, a line each on standard input. Nothing of
# an administrator's is lost: his line becomes a comment.
put_back() { # DATA
  port=$(peek "$1/postmaster.pid" sed -n 4p "$1/postmaster.pid")
  while read -r how name line file; do
    case $how in
      reset) echo "ALTER SYSTEM RESET $name" | closed_psql "$1" "$port" postgres ;;
      line) at "$file" sed -i "$line{/^[[:space:]]*$name\\b/I s/^/# Datatier sets it: /}" "$file" ;;
      include) at "$file" sed -i "\$a include_dir = 'conf.d'" "$file" ;;
      option)
        [ ! -e "$file" ] ||
          at "$file" sed -i "/^ *pg_ctl_options.*$name/ s/^/# Datatier sets $name: /" "$file" ;;
    esac || { echo "$name could not be put back: see $file" >&2; exit 1; }
  done
}
