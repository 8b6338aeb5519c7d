# What there is of a project: containers, networks and volumes, and its files.
ls -d "$records" 2>/dev/null | sed 's/^/path /'
if grep -rqsF "$MARK" "$project/docker"; then
  ours_in "$project/docker" "$in_docker" | sed 's/^/path /'
fi
if grep -qsF "$MARK" "$project/docker-compose.yml"; then echo "path $project/docker-compose.yml"; fi
for d in $(ours_in "$project/backups" "$in_backups"); do
  if [ -n "$(ls -A "$d" 2>/dev/null)" ]; then echo "data $d"; fi
done
if [ -e "$project/.env" ]; then echo "keeps $project/.env"; fi
command -v docker >/dev/null || exit 0
docker info >/dev/null 2>&1 || { echo 'the engine does not answer' >&2; exit 1; }
mine=label=com.docker.compose.project=$stack
docker container ls -a --filter "$mine" --format 'container {{.Names}}'
docker network ls --filter "$mine" --format 'network {{.Name}}'
docker volume ls --filter "$mine" --format 'volume {{.Name}}'
