# The live configuration, as `key=value` words; passwords are only compared, never printed. `auth`
# is whether it is let in by the instances, `login` whether as its own user.
# shellcheck disable=SC2034  # of console.sh
logins='default cli.auth'
command -v redis-cli >/dev/null || exit 0
export QUOTED_PASSWORD
# All of them belong to one user: what each has in its file, after the port.
set --
for port in $ports; do
  file=/var/lib/redis/sentinel-$port/sentinel.conf
  [ ! -e "$file" ] || set -- "$@" "$file"
done
all=$([ $# = 0 ] || peek "$1" awk -v name="$name" '
  $1 != "sentinel" || $3 != name || $2 !~ /^(auth-[a-z]+|rename-command|master-reboot[a-z-]*)$/ { next }
  { port = FILENAME; sub(/.*sentinel-/, "", port); sub(/\/.*/, "", port)
    line = $0; sub(/^sentinel [^ ]+ [^ ]+ /, "", line); print port, $2, line }' "$@") || :
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
  known=0 login=0 user="" renamed=""
  while IFS= read -r line; do
    case $line in "$port "*) line=${line#* } ;; *) continue ;; esac
    words=${line#* }
    case $line in
      "auth-pass $REDIS_PASSWORD"|"auth-pass $QUOTED_PASSWORD") known=1 ;;
      "auth-pass $LOGIN_PASSWORD"|"auth-pass \"$LOGIN_PASSWORD\"") login=1 ;;
      auth-user*) user=$user${line#auth-user } ;;
      master-reboot*) renamed="$renamed reboot=${line##* }" ;;
      rename-command*) renamed="$renamed renamed.${words%% *}=1" ;;
    esac
  done <<EOF
$all
EOF
  case $login$user in 1datatier-sentinel) known=1 ;; *) login=0; [ -z "$user" ] || known=0 ;; esac
  echo "$port up auth=$known login=$login user=$user$renamed $state"
done
