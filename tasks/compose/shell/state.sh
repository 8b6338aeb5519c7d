# What only containers reach is asked by the engine.
format='{{.State.Status}}{{if .State.Health}}, {{.State.Health.Status}}{{end}}'
said=$(docker inspect -f "$format" "$container" 2>&1)
echo "$said"
case $said in running | 'running, healthy') ;; *) exit 1 ;; esac
