mv "$next/key.pem" "$keys/key.pem"; mv "$next/certificate.pem" "$keys/certificate.pem"
