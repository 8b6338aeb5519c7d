# Bash is on every Linux that runs Docker, and an HTTP client is not.
# shellcheck disable=SC3025,SC3003  # it is for bash
exec 3<>"/dev/tcp/$0/$1" || exit 1
printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$0" >&3
IFS= read -r line <&3; echo "GET $2: ${line%$'\r'}"
case $line in *' 2'[0-9][0-9]' '*) ;; *) exit 1 ;; esac
