# The one way into PostgreSQL: as postgres, closed to what lives in a database or is set for it.
# Options that a session begins with win over what an owner sets with ALTER DATABASE or ALTER ROLE.
plain='' version=
# Of a data directory. Who asks its server several times sets `version` before.
version_of() { runuser -u postgres -- timeout 5 head -c 3 "$1/PG_VERSION"; }
closed() ( # DATA PORT DATABASE COMMAND...: it ends after $within seconds, where that is set
  options="-c search_path=pg_catalog,pg_temp -c role=none -c local_preload_libraries= \
    -c session_replication_role=replica -c row_security=off"
  # What these say for a session is not what the server would say: see `plain` below.
  [ -n "${plain:-}" ] || options="$options -c standard_conforming_strings=on \
    -c statement_timeout=${within:-0}s -c lock_timeout=${within:-30}s -c idle_session_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c default_transaction_isolation=read\\ committed \
    -c default_tablespace= -c temp_tablespaces= -c default_table_access_method=heap \
    -c quote_all_identifiers=off -c transform_null_equals=off -c client_min_messages=warning \
    -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c extra_float_digits=1 \
    -c array_nulls=on -c backslash_quote=safe_encoding -c xmloption=content \
    -c exit_on_error=off -c temp_file_limit=-1 -c lc_messages=C -c synchronous_commit=local"
  # Verifiers of passwords are in what we say.
  [ -n "${plain:-}" ] || options="$options -c log_statement=none -c log_min_duration_statement=-1 \
    -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 \
    -c log_min_error_statement=panic -c track_activities=off -c pg_stat_statements.track=none"
  [ -n "${version:-}" ] || version=$(version_of "$1") || :
  case $version in
    1[0-6]) ;;
    *) options="$options -c event_triggers=off -c transaction_timeout=0" ;;
  esac
  port=$2 database=$3
  shift 3
  # The version's own psql: Debian's asks files that may be anything by now, and takes longer.
  path=/usr/lib/postgresql/${version%%[!0-9]*}/bin:/usr/local/bin:/usr/bin:/bin
  # Inside runuser, which waits for two seconds before it passes a signal on.
  runuser -u postgres -- ${within:+timeout "$within"} env -i LC_ALL=C PATH="$path" \
    PGOPTIONS="$options" PGCLIENTENCODING=UTF8 PGPORT="$port" PGDATABASE="$database" "$@"
)
# SQL comes on standard input; what it says after a \connect begins with :closed as well. Views are
# refused where the server knows how; :open is for the scripts of extensions, which may need theirs.
# With `plain` set a session says what the server's own settings are: it is told nothing else.
closed_psql() ( # DATA PORT DATABASE [OPTION...]
  kind="SELECT pg_catalog.count(pg_catalog.set_config('restrict_nonsystem_relation_kind',"
  known="WHERE pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL"
  data=$1 port=$2 database=$3
  shift 3
  { [ -z "${plain:-}" ] || echo 'SET statement_timeout = 0;'; echo :closed; cat; } |
    closed "$data" "$port" "$database" psql -XAtqw -v ON_ERROR_STOP=1 \
    -v VERBOSITY=terse -v closed="$kind 'view,foreign-table', false)) AS _ $known \\gset" \
    -v open="$kind '', false)) AS _ $known \\gset" "$@"
)
