# What the server of the status page answers to a request, with a line of its header.
ask() { # LINE
  if [ -n "$page_authority" ]; then
    printf 'GET / HTTP/1.0\r\n%s\r\n\r\n' "$1" | timeout 10 openssl s_client -quiet \
      -verify_return_error -CAfile "$page_authority" -verify_ip "$page_address" \
      -connect "$page_place" 2>/dev/null
  else
    # shellcheck disable=SC2016  # it is for bash
    printf 'GET / HTTP/1.0\r\n%s\r\n\r\n' "$1" | timeout 10 bash -c \
      'exec 3<>"/dev/tcp/$0/$1" && cat >&3 && cat <&3' "$page_address" "$page_port" 2>/dev/null
  fi
}
# Who answers that a password is missing runs, and asks for one.
demands() {
  said=$(ask 'Accept: */*' | head -n 1 | tr -d '\r')
  case $said in *' 401 '*) ;; *) echo "${said:-no answer}"; return 1 ;; esac
}
