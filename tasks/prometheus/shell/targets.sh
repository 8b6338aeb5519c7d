# One that was never looked at is not up yet.
told=$(ask "$url/api/v1/targets?state=active" 2>&1) || { echo "no answer: $told" | tail -n 1; exit 1; }
up=$(printf '%s' "$told" | grep -o '"health":"up"' | wc -l)
silent=$(printf '%s' "$told" | grep -o '"scrapePool":"[^"]*","scrapeUrl":"[^"]*","globalUrl":"[^"]*","lastError":"[^"]' | cut -d '"' -f 8 | tr '\n' ' ')
echo "$up of $wanted targets up${silent:+; not: $silent}"
[ "$up" -eq "$wanted" ]
