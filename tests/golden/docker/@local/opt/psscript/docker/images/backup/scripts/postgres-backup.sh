#!/bin/sh
# Written by Datatier; changes are overwritten.
exec env PYTHONPATH=/usr/lib/datatier /usr/bin/python3 -P -m backup postgres "$@"
