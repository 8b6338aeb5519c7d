# What both use now; nothing where one does not answer.
ask "$prometheus/api/v1/status/config" 2>/dev/null | base64 -w 0; echo
ask "$alertmanager/api/v2/status" 2>/dev/null | base64 -w 0; echo
