PYTHONPATH=/usr/lib/datatier /usr/bin/python3 -P -c 'import pathlib, sys; from backup import recovery
recovery.give(pathlib.Path(sys.argv[1]), "postgres")' "$repository"
