# One that refuses all clients says nothing; the Sentinels know who leads.
# shellcheck disable=SC2046  # the position is words
set -- $(position 127.0.0.1 "$port"); role=$1
case $role$(echo PING | ask 127.0.0.1 "$port") in -*WRONGPASS* | -*NOAUTH* | -*NOPERM* | -PONG)
  for sentinel in $sentinels; do
    leader=$(monitor "${sentinel%:*}" "${sentinel#*:}")
    case $leader in
      "$(hostname -i) $port "*) role=refuses; break ;;
      [0-9]*.*) role=slave; break ;;
    esac
  done ;;
esac
echo "$role"
