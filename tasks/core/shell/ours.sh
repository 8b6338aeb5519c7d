# Whether a cluster is Datatier's. Debian's pg_dropcluster leaves files in conf.d behind, for the
# next cluster of that name: such a file is older than that one's data.
is_ours() { # ETC DATA
  timeout 20 grep -D skip -qsF "$MARK" "$1/pg_hba.conf" ||
    { [ "$1/conf.d/datatier.conf" -nt "$2/PG_VERSION" ] &&
      timeout 20 grep -D skip -qsF "$MARK" "$1/conf.d/datatier.conf"; }
}
# What of a directory is Datatier's: all of it, unless others keep something there too.
ours_in() { # DIRECTORY NAMES
  if ls -A "$1" 2>/dev/null | grep -qvxE "$2|lost\+found"; then
    ls -A "$1" | grep -xE "$2" | sed "s|^|$1/|"
  elif [ -e "$1" ]; then echo "$1"; fi
}
in_backups='postgres|redis|logs|pgbackrest|scratch|status\.html|\.[^/]*\.(json|lock|partial)'
in_docker='backup|images|pgbackrest|pgbouncer|postgres|redis|secrets'
# Whether others use what is to be a backup directory, or the one of containers' files.
has_others_backups() { # DIRECTORY
  ls -A "$1" 2>/dev/null | grep -qvxF lost+found && ! ls -A "$1" | grep -qxE "$in_backups"
}
has_others_docker() { # DIRECTORY
  ls -A "$1" 2>/dev/null | grep -qvxE "$in_docker" && ! grep -rqsF "$MARK" "$1"/images "$1"/postgres
}
