# The owner of a directory decides where the paths through it lead: at any moment it may be a link.
# So nothing is done there as root, only as that user, who reaches nothing that was not in reach.

# Sets `actor`: 0 where only root decides where a directory's path leads, else the number of the
# user who does. It fails where no user can be trusted with it, and `why` tells the reason.
actor_of() { # DIRECTORY
  actor=0 why='' whole=${1%/}
  if is_roots "$whole"; then return; fi
  rest=$whole; set --
  while [ -n "$rest" ]; do set -- "$rest" "$@"; rest=${rest%/*}; done
  [ $# != 0 ] || return 0
  while read -r mode uid gid; do
    mode=$((0x${mode:-4000}))
    case $((mode & 0xf000))-$actor in
      16384-0) # a directory, and all above it is root's
        actor=${uid:-0}
        if [ "$actor" = 0 ] && is_shared "$1" "$mode" "${gid:-0}"; then
          why="others than root may write in $1"; return 1
        fi ;;
      16384-*)
        if [ "$uid" != 0 ] && [ "$uid" != "$actor" ]; then
          why="$1 is the directory of user $uid in one of user $actor"; return 1
        fi ;;
      40960-0) # a link that only root can change leads on from here
        [ "$uid" = 0 ] || { why="$1 is a link of user $uid"; return 1; }
        [ -e "$1" ] || { why="$1 leads nowhere"; return 1; }
        rest=${whole#"$1"} whole=$(readlink -- "$1")
        case $whole in /*) ;; *) whole=${1%/*}/$whole ;; esac
        actor_of "$whole$rest"; return ;;
      40960-*) return 0 ;; # who has made it, follows it
      *) why="$1 is not a directory"; return 1 ;;
    esac
    shift
  done <<EOF
$(stat -c '%f %u %g' -- "$@" 2>/dev/null)
EOF
}
# Of many directories those whose path only root decides, by one process for all of them.
roots='
'
know() { # DIRECTORY...
  ways=
  for rest; do
    rest=${rest%/} way=
    while [ -n "$rest" ]; do way="$rest
$way" rest=${rest%/*}; done
    ways=$ways$way
  done
  while read -r mode uid gid place; do
    mode=$((0x${mode:-0}))
    if [ $((mode & 0xf000))-$uid = 16384-0 ] && is_roots "${place%/*}" && ! is_roots "$place" &&
      ! is_shared "$place" "$mode" "$gid"; then
      roots="$roots$place
"
    fi
  done <<EOF
$(set -f; IFS='
'; stat -c '%f %u %g %n' -- $ways 2>/dev/null)
EOF
}
is_roots() { # DIRECTORY
  case ${1:+$roots} in '' | *"
$1
"*) ;; *) return 1 ;; esac
}
# Groups below 100 are the distribution's own, as good as root; /var/log has one of its own on Ubuntu.
is_shared() { # DIRECTORY MODE GROUP
  [ $(($2 & 01000)) = 0 ] || return 1
  [ $(($2 & 02)) = 0 ] || return 0
  [ $(($2 & 020)) != 0 ] && [ "$3" -ge 100 ] && [ "$1" != /var/log ]
}
# Runs a command with the rights of a user, and nothing of root's: no group, no variable.
become() { # USER COMMAND...
  uid=$1; shift
  gid=$(id -g "$uid" 2>/dev/null) || gid=$uid
  ${patience:+timeout -k 1 $patience} env -i PATH="$PATH" LC_ALL=C \
    setpriv --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs -- "$@"
}
# Runs a command that does something to a path, as who decides where that leads.
self=$(id -u)
at() ( # PATH COMMAND...
  actor_of "${1%/*}" || { echo "could not touch $1: $why" >&2; exit 1; }
  shift
  if [ "$actor" = 0 ] || [ "$self" != 0 ]; then "$@"; else become "$actor" "$@"; fi
)
# The same for what reads, which a pipe or a terminal in place of a file would keep waiting.
peek() (patience=5; at "$@")
# What only root may read, in a directory that was of others: no link, pipe or endless file.
glance() { dd if="$1" iflag=nofollow,nonblock bs=4096 count=1 2>/dev/null || :; } # FILE
# Reads or removes in a directory whose owner may not enter those above it, which are root's.
within() ( # DIRECTORY COMMAND...: its paths are those below the directory
  place=${1%/}
  shift
  actor_of "${place%/*}" && [ "$actor" = 0 ] && cd -P -- "$place" || {
    echo "could not touch $place: ${why:-its directory does not belong to root}" >&2; exit 1; }
  patience=5
  become "$(stat -c %u .)" "$@"
)
remove() ( # PATH...
  for each; do at "$each" rm -rf --one-file-system -- "$each" || exit 1; done
)

# What stands at paths of one directory, a line each; of a file its content, or `:` and its size
# where `looked` tells the content. Nothing is opened that keeps its reader waiting or never ends,
# and a link is no file, whatever it leads to.
LOOK='
look() { # PATH...
  for p; do
    if [ ! -e "$p" ] && [ ! -L "$p" ]; then echo absent; continue; fi
    read -r mode size said && [ -n "$mode" ] || exit 1
    case $((0x$mode & 0xf000)) in
      16384) echo "dir $said" ;;
      32768)
        if [ "$size" -gt 4194304 ] || [ ! -r "$p" ]; then echo "other $(id -u)"; continue; fi
        printf "file %s " "$said"
        case ${actor-}$said in # what only root may write does not grow meanwhile
          0[0-7][0145][0145]" root "*" 0 "*) printf ":%s" "$size"; sure="$sure$p
" ;;
          *) head -c 4194304 -- "$p" | base64 -w0 || exit 1 ;;
        esac
        echo ;;
      40960)
        if [ -d "$p" ] && { [ "${said%% 0 *}" != "$said" ] || [ "$(id -u)" != 0 ]; }; then
          stat -L -c "dir %a %U %G %u %g" -- "$p"
        else echo "other $(id -u)"; fi ;;
      *) echo "other $(id -u)" ;;
    esac
  done <<EOF
$(stat -c "%f %s %a %U %G %u %g" -- "$@" 2>/dev/null)
EOF
}'
eval "$LOOK"
sure='' others='' actors=''
look_at() { # DIRECTORY PATH...
  if ! actor_of "$1"; then shift; for each; do echo other; done; return; fi
  shift
  for each; do echo "as $actor"; others="$others$actor $each
"; done
  case " $actors " in *" $actor "*) ;; *) actors="$actors $actor" ;; esac
}
# What `look_at` has left for the end, since a process for each takes longer than all else: what
# stands at the paths, by whom it is asked, and the contents of files, one after the other.
looked() {
  for who in $actors; do
    set --
    while IFS=' ' read -r actor each; do
      [ "$actor" != "$who" ] || set -- "$@" "$each"
    done <<EOF
$others
EOF
    actor=$who
    if [ "$who" = 0 ]; then look "$@"; continue; fi
    # Its user may write what was not asked for.
    said=$(patience=20; become "$who" sh -c "$LOOK"'; look "$@"' sh "$@" 2>/dev/null </dev/null) ||
      exit 1
    printf '%s\n' "$said" | tr -d '\036'
  done
  [ -n "$sure" ] || return 0
  (set -f; IFS='
'; cat -- $sure) | base64 -w0 && echo
}

# Writes one file, or makes a directory; a file beside its place, and renamed when it is whole.
# Printf is built into the shell, so no content shows in a process list. The temporary file is
# created (set -C refuses a planted one) and unreadable to others until it has its owner.
MAKE='
make() { # KIND MODE USER GROUP PATH; the content of a file in base64; `same` keeps its time
  if [ "$1" = dir ]; then install -d -m "$2" -o "$3" -g "$4" -- "$5"; return; fi
  new="$5.datatier-new"; rm -rf --one-file-system -- "$new"
  (umask 077; set -C; : >"$new") && base64 -d >"$new" &&
  chown "$3:$4" "$new" && chmod "$2" "$new" && sync "$new" &&
  { [ "$1" = file ] || touch -c -r "$5" -- "$new"; } && mv -fT -- "$new" "$5" ||
  { rm -f -- "$new"; return 1; }
}'
eval "$MAKE"
order() { # KIND MODE USER GROUP PATH [CONTENT]
  place=${5%/*}
  [ "$1" = dir ] || [ -d "$place/" ] || { echo "could not write $5: $place is missing" >&2; return 1; }
  # Of a directory that is a link to another disk it counts where that is.
  if [ "$1" = dir ] && [ -L "$5" ]; then place=$5; fi
  actor_of "$place" || { echo "could not write $5: $why" >&2; return 1; }
  kind=$1 mode=$2 user=$3 group=$4 path=$5 content=${6:-}
  if [ "$actor" != 0 ] && [ "$actor" != "$(id -u "$user" 2>/dev/null || echo "$user")" ]; then
    echo "could not write $5: its directory is user $actor's, and the file is to be $user's" >&2
    return 1
  fi
  if printf %s "$content" | {
    set -- "$kind" "$mode" "$user" "$group" "$path"
    if [ "$actor" = 0 ]; then make "$@"; else become "$actor" sh -c "$MAKE"'; make "$@"' sh "$@"; fi
  } 2>"$errors"; then return 0; fi
  why=$(tail -n 1 "$errors")
  case $why in
    *'write error'* | *[Ss]pace* | *'too large'* | *quota*)
      why="$(df -h --output=avail "${path%/*}" | tail -n 1 | tr -d ' ') left on its file system" ;;
    *) why=${why#*: } ;;
  esac
  echo "could not write $path: $why" >&2
  return 1
}
