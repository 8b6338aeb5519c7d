# openssl says whether the certificate is of an address, but not by its exit code. One that ends
# within a month is made again, and so is one whose key is another: a run was cut off between them.
if [ -s "$keys/key.pem" ] && openssl x509 -in "$keys/certificate.pem" -noout -checkip "$address" \
  2>/dev/null | grep -q 'does match' &&
  openssl x509 -in "$keys/certificate.pem" -noout -checkend 2592000 >/dev/null &&
  [ "$(openssl x509 -in "$keys/certificate.pem" -noout -pubkey)" = \
    "$(openssl pkey -in "$keys/key.pem" -pubout 2>/dev/null)" ]
then cat "$keys/certificate.pem"; fi
