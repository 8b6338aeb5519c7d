# Repositories beside that of the first passphrase, and that one by its number, if it was begun.
[ ! -d "$repository/archive" ] || echo 1
for place in "$repository"/[12]-*; do [ ! -d "$place/archive" ] || echo "${place##*/}"; done
