#!/bin/sh
# init.sh DIRECTORY: makes a repository of your own, with this one in it as a pinned submodule.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
fail() { echo "make init: $1" >&2; exit 1; }

[ -n "${1:-}" ] || fail "name a new directory: make init DIR=../shop"
[ -z "$(ls -A "$1" 2>/dev/null)" ] || fail "$1 is not empty: name a new directory"
commit=$(git -C "$source" rev-parse HEAD 2>/dev/null) || fail "$source is not a clone: git clone Datatier first"
origin=$(git -C "$source" remote get-url origin 2>/dev/null) || origin=$source

mkdir -p "$1"
cd "$1"
cp -R "$source/starter/files/." .
mkdir -p group_data
cp "$source/config.py" "$source/.env.example" .
# What this machine says to itself needs no TLS; hosts that take its place have it.
sed 's/{"address": "127.0.0.1"}/{"address": "127.0.0.1", "tls_enabled": False}/' "$source/inventory.py" >inventory.py
# An estate that runs copies its own file over this one.
sed -E 's/^# (redis_default_user = "application"|tls_enabled = True)/\1/' "$source/group_data/all.py" >group_data/all.py
git init --quiet
git -c protocol.file.allow=always submodule --quiet add "$origin" datatier
git -C datatier checkout --quiet "$commit" || fail "$origin does not have commit $commit: push it first"
git add --all
echo "$PWD is ready; next: cd $PWD && make plan"
