# What an HTTP server answers to a request, with a line of its header.
ask() { # LINE
  if [ -n "$http_authority" ]; then
    printf 'GET %s HTTP/1.0\r\n%s\r\n\r\n' "$http_path" "$1" | timeout 10 openssl s_client -quiet \
      -verify_return_error -CAfile "$http_authority" -verify_ip "$http_address" \
      -connect "$http_place" 2>/dev/null
  else
    # shellcheck disable=SC2016  # it is for bash
    printf 'GET %s HTTP/1.0\r\n%s\r\n\r\n' "$http_path" "$1" | timeout 10 bash -c \
      'exec 3<>"/dev/tcp/$0/$1" && cat >&3 && cat <&3' "$http_address" "$http_port" 2>/dev/null
  fi
}
# Who answers that a password is missing runs, and asks for one.
demands() {
  said=$(ask 'Accept: */*' | head -n 1 | tr -d '\r')
  case $said in *' 401 '*) ;; *) echo "${said:-no answer}"; return 1 ;; esac
}
