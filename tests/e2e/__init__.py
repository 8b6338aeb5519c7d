"""Stories on real hosts; each ends in proof by psql, redis-cli or a client library."""
