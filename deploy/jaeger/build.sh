#!/usr/bin/env bash
# Build Jaeger v2 once from the Go module proxy (8 minutes on 2 cores, 1.3 GB of modules) and print its path.
# It is kept outside of the clone, so that a fresh clone, as CI makes one, finds it again.
#   build.sh          build it, if it is not there, and print its path
#   build.sh --find   print its path if it is there, else fail at once
set -euo pipefail
version=v1.76.0  # the tag of Jaeger 2.13 under the name that its module has
folder="${XDG_CACHE_HOME:-$HOME/.cache}/onetake/jaeger-$version"
binary="$folder/jaeger"
if [ -x "$binary" ]; then echo "$binary"; exit 0; fi
[ "${1:-}" != --find ] || exit 1
command -v go >/dev/null || { echo "Go is not installed: see https://go.dev/dl" >&2; exit 1; }
mkdir -p "$folder/src"
cd "$folder/src"
echo "Building Jaeger $version in $folder (once, about 8 minutes) …" >&2
[ -f go.mod ] || go mod init onetake-jaeger >&2
nice -n 15 go get -tool "github.com/jaegertracing/jaeger/cmd/jaeger@$version" >&2
nice -n 15 go build -o "$binary.part" github.com/jaegertracing/jaeger/cmd/jaeger >&2
mv "$binary.part" "$binary"
echo "$binary"
