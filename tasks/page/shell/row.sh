demands || exit 1
told=$(ask "Authorization: Basic $PAGE_LOGIN" | head -n 1 | tr -d '\r')
case $told in
  *' 200 '*) age=$(($(date +%s) - $(stat -c %Y "$page"))); echo "written $((age / 60)) min ago" ;;
  *' 503 '*) echo "no page yet: the next health check writes it" ;;
  *' 401 '*) echo "refuses the password"; exit 1 ;;
  *) echo "${told:-no answer}"; exit 1 ;;
esac
