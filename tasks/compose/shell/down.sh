# Compose stops them in order; what it no longer knows goes by the engine's labels.
if [ -n "$compose" ] && [ -e "$project/docker-compose.yml" ]; then
  (cd "$project" && $compose -p "$stack" down -t 300 >/dev/null 2>&1 </dev/null) || :
fi
mine=label=com.docker.compose.project=$stack
docker container ls -aq --filter "$mine" | xargs -r docker rm -f >/dev/null
docker network ls -q --filter "$mine" | xargs -r docker network rm >/dev/null
