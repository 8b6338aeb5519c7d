if [ -n "${guard:-}" ]; then exec 9>&-; wait "$guard" || :; guard=; fi
go_on || exit 1
