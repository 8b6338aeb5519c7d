# shellcheck disable=SC2086  # these are globs
{ ls -d $named 2>/dev/null; timeout 20 grep -D skip -ls "$MARK" $marked
  grep -ls datatier /usr/sbin/policy-rc.d
  for unit in $masked; do [ "$(readlink "$unit")" != /dev/null ] || echo "$unit"; done
} | sort -u | sed 's/^/path /'
ls -db $beside 2>/dev/null | sed 's/^/beside /'
{ [ -z "$as_user" ] || ls -db $as_user 2>/dev/null
  timeout 20 grep -D skip -lsE "$jobs" /etc/crontab /etc/cron.d/*; } | sed 's/^/acts /'
with_data() { # DIRECTORY...; what is no directory is data itself
  for d; do
    if [ -e "$d" ] && [ ! -d "$d" ]; then echo "data $d"; continue; fi
    for each in "$d"/* "$d"/.[!.]* "$d"/..?*; do
      if [ -e "$each" ] || [ -L "$each" ]; then echo "data $d"; break; fi
    done
  done
}
