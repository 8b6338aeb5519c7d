# Who would refuse the pair says why before it is written: the library of all servers here.
# shellcheck disable=SC2154  # given
command -v openssl >/dev/null || { echo "openssl is missing: run deploy.py" >&2; exit 1; }
new=$(mktemp -d); trap 'rm -rf "$new"' EXIT
printf '%s' "$OWN_ROOT" >"$new/root.pem"; printf '%s' "$OWN_CERTIFICATE" >"$new/chain.pem"
why=$(openssl verify -auth_level 2 -purpose sslserver -verify_ip "$address" -CAfile "$new/root.pem" \
  -untrusted "$new/chain.pem" "$new/chain.pem" 2>&1) || {
  echo "tls_certificate: openssl refuses it: $(printf '%s\n' "$why" | grep '^error ' | head -n 1)" >&2; exit 1; }
