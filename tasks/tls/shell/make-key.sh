# A key that can be used only gets its owner back. Until it has it, no one else reads a new one.
# shellcheck disable=SC2154  # given
if [ -z "$keep" ]; then
  command -v openssl >/dev/null || { echo "openssl is missing: run deploy.py" >&2; exit 1; }
  rm -rf --one-file-system -- "$keys/key.pem" "$keys/key.new"
  out=$(umask 077
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$keys/key.new" 2>&1) || {
    echo "openssl could not make a key: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }
  chown "root:$group" "$keys/key.new"; chmod 640 "$keys/key.new"
  sync "$keys/key.new"; mv -T "$keys/key.new" "$keys/key.pem"
else chown "root:$group" "$keys/key.pem"; chmod 640 "$keys/key.pem"; fi
