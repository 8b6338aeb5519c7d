errors=$(mktemp -p /run); trap 'rm -f "$errors"' EXIT
while IFS= read -r line; do eval "order $line" || exit 1; done <<__ORDERS__
$ORDERS
__ORDERS__
