# Clients go on at the other one.
release
rm -f "$handed"
