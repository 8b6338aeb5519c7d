# Whose the user of a name is.
comment=$(getent passwd "$name" | cut -d : -f 5)
if [ "$comment" = "$ours" ]; then echo "${kind:-}ours"
elif getent passwd "$name" >/dev/null || getent group "$name" >/dev/null; then echo "${kind:-}others"
else echo "${kind:-}none"; fi
