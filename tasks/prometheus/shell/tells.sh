said=$(ask "$url/-/ready" 2>&1) || { echo "no answer: $said" | tail -n 1; exit 1; }
told=$(ask "$prometheus/api/v1/alertmanagers" 2>&1) || { echo "ready; Prometheus does not answer"; exit 1; }
case $told in *"\"url\":\"$url/"*) ;; *) echo "Prometheus sends it no alerts"; exit 1 ;; esac
echo "ready; ${channels:-it tells no one: set alertmanager_webhook, _slack or _mail}"
