# What the server uses is asked of the server: a file may have been written and not loaded yet.
if [ -s "$keys/certificate.pem" ]; then
  served=$(timeout 3 openssl s_client -starttls postgres -connect "$place" </dev/null \
    2>/dev/null | openssl x509 2>/dev/null) || served=
  if [ "$served" = "$(openssl x509 -in "$keys/certificate.pem")" ]; then echo "$served"; fi
fi
