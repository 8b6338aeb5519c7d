# How far this server is in handing over, and to whom; what is told to go on there cannot be taken
# back, and the other way round: both take away the same file.
# shellcheck disable=SC2034  # of the steps
handing=$marks/postgres.handing handed=$marks/postgres.handed taken=$marks/postgres.taken-back
# In a clean end the last thing that it has written is a checkpoint.
ended() { # FIELD
  runuser -u postgres -- env LC_ALL=C "$server_bin/pg_controldata" -D "$data" | sed -n "s/^$1: *//p"
}
take_back() { mv "$handing" "$taken" && bring_back; }
bring_back() {
  runuser -u postgres -- rm -f "$data/standby.signal"
  restart_service postgres "$server_unit"; (answer postgres "$server_unit")
  rm -f "$taken"; release
}
