# The live configuration, as `key=value` words; the password is only compared, never printed.
command -v redis-cli >/dev/null || exit 0
for port in $ports; do
  file=/var/lib/redis/sentinel-$port/sentinel.conf
  [ -e "$file" ] || { echo "$port none"; continue; }
  accepted "$port" || { echo "$port down"; continue; }
  state=$(/usr/bin/redis-cli -p "$port" SENTINEL MASTER "$name" | paste -d = - - | paste -s -d ' ')
  case $state in name=*) ;; *) echo "$port none"; continue ;; esac
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
  own=$(/usr/bin/redis-cli -p "$port" SENTINEL CONFIG GET '*' | paste -d = - -)
  case "$own
" in *"sentinel-pass=$REDIS_PASSWORD
"*) peers=1 ;; *) peers=0 ;; esac
  own=$(echo "$own" | grep -v '^sentinel-pass=' | sed 's/^/own./' | paste -s -d ' ')
  echo "$port up auth=$known peers=$peers user=$user $own$renamed $state"
done
