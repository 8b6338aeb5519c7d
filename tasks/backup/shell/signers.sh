grep -ho '"signer": "[0-9a-f]*"' "$directory"/.s3-mirror*.json 2>/dev/null | cut -d '"' -f 4
