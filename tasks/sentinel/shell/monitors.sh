# The live configuration, as `key=value` words; the password is only compared, never printed.
command -v redis-cli >/dev/null || exit 0
export QUOTED_PASSWORD
for port in $ports; do
  file=/var/lib/redis/sentinel-$port/sentinel.conf
  [ -e "$file" ] || { echo "$port none"; continue; }
  accepted "$port" master "SENTINEL MASTER $name" own 'SENTINEL CONFIG GET *' \
    debug 'SENTINEL DEBUG' ||
    { echo "$port down"; continue; }
  state=$(printf '%s\n' "$said" | awk "$PARTS"'
    !listed { next }
    names++ % 2 == 0 { key = word; next }
    part == "own" && key == "sentinel-pass" {
      peers = "\"" word "\"" == ENVIRON["QUOTED_PASSWORD"]; next
    }
    part == "own" { own = own " own." key "=" word }
    part == "debug" { own = own " debug." tolower(key) "=" word }
    part == "master" { live = live " " key "=" word }
    END { if (live ~ /^ name=/) print "peers=" peers + 0 own live }')
  [ -n "$state" ] || { echo "$port none"; continue; }
  written=$(peek "$file" \
    sed -nE "s/^sentinel (auth-[a-z]+|rename-command|master-reboot[a-z-]*) $name /\\1 /p" "$file") || :
  known=0 user=0 renamed=
  while IFS= read -r line; do
    words=${line#* }
    case $line in
      "auth-pass $REDIS_PASSWORD"|"auth-pass $QUOTED_PASSWORD") known=1 ;;
      auth-user*) user=$((user + 1)) ;;
      master-reboot*) renamed="$renamed reboot=${line##* }" ;;
      rename-command*) renamed="$renamed renamed.${words%% *}=1" ;;
    esac
  done <<EOF
$written
EOF
  echo "$port up auth=$known user=$user$renamed $state"
done
