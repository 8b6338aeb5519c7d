destroy() { # DIRECTORY
  at "$1" find "$1" -xdev -mindepth 1 -delete; at "$1" rm -df "$1" 2>/dev/null || :
}
