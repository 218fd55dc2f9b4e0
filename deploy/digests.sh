#!/usr/bin/env bash
# Pins every image by its digest: asks the registries, through docker, which digest each tag of compose.yaml and
# Dockerfile has now, and writes compose.digests.yaml. Use both files from then on:
#   docker compose -f compose.yaml -f compose.digests.yaml up -d
# Run it where there is a network, look at the difference, and keep the file. A tag can be moved, a digest cannot.
set -euo pipefail
cd "$(dirname "$0")"
out=compose.digests.yaml

command -v docker >/dev/null || { echo "digests.sh needs docker with buildx, and a network" >&2; exit 1; }

digest() {
  local found
  found=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1")
  [[ $found =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "$1: no digest in the answer of docker: $found" >&2; exit 1; }
  echo "$found"
}

new=$(mktemp "$out.XXXXXX")
trap 'rm -f "$new"' EXIT
{
  echo "# Written by deploy/digests.sh (make digests). The tags are those of compose.yaml and Dockerfile."
  echo "services:"
  python=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
  pinned="$python@$(digest "$python")"
  for ours in bot worker; do
    printf '  %s:\n    build:\n      args:\n        PYTHON_IMAGE: %s\n' "$ours" "$pinned"
  done
  # "  name:" in services, then its "    image: name:tag"; our own image is built here.
  sed -n '/^services:/,/^networks:/p' compose.yaml | awk '
    /^  [a-z-]+:$/ { name = substr($1, 1, length($1) - 1) }
    /^    image: [^$]*$/ { print name, $2 }' |
  while read -r name image; do
    pinned="$image@$(digest "$image")"
    printf '  %s:\n    image: %s\n' "$name" "$pinned"
  done
} > "$new"
mv "$new" "$out"
trap - EXIT
echo "deploy/$out pins $(grep -c 'sha256:' "$out") images."
