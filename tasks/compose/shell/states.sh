ids=$(docker ps -aq --filter label=com.docker.compose.project="$stack" \
  --filter label=com.docker.compose.oneoff=False)
docker inspect -f "$format" $ids
