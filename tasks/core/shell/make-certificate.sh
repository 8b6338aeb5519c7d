install -d -m 750 -o root -g "$reader" "$keys"
out=$(umask 077
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" \
  -subj "/CN=$address" -addext "subjectAltName=DNS:$address,IP:$address" \
  -keyout "$keys/key.new" -out "$keys/certificate.new" 2>&1) || {
  echo "openssl could not make a key: $(printf '%s\n' "$out" | tail -n 1)" >&2; exit 1; }
chown "$reader:$reader" "$keys/key.new"; chmod 600 "$keys/key.new"
chmod 644 "$keys/certificate.new"
mv "$keys/key.new" "$keys/key.pem"; mv "$keys/certificate.new" "$keys/certificate.pem"
