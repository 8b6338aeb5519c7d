# Who would refuse the pair says why before it is written: the library of all servers here.
# shellcheck disable=SC2154  # given
command -v openssl >/dev/null || { echo "openssl is missing: run deploy.py" >&2; exit 1; }
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
printf '%s' "$OWN_ROOT" >"$place/root.pem"; printf '%s' "$OWN_CERTIFICATE" >"$place/chain.pem"
why=$(openssl verify -auth_level 2 -purpose sslserver -verify_ip "$address" -CAfile "$place/root.pem" \
  -untrusted "$place/chain.pem" "$place/chain.pem" 2>&1) || {
  echo "tls_certificate: openssl refuses it: $(printf '%s\n' "$why" | grep '^error ' | head -n 1)" >&2; exit 1; }
