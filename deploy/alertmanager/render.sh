#!/bin/sh
# Prints Alertmanager's configuration, alertmanager.yml beside this file, with the values of the environment:
# it reads none itself. A part whose value is not set is left out.
set -eu
file="$(dirname "$0")/alertmanager.yml"
escaped() { printf '%s' "$1" | sed 's/[&|\\]/\\&/g'; }
script=$(mktemp)
trap 'rm -f "$script"' EXIT
{
  for name in PAGER_TOKEN PAGER_WEBHOOK PAGER_DEADMAN; do
    eval "value=\${$name:-}"
    if [ -z "$value" ]; then echo "/# begin $name\$/,/# end $name\$/d"; fi
    echo "s|@$name@|$(escaped "$value")|"
  done
  echo "s|@PAGER_CHAT@|$(escaped "${PAGER_CHAT:-0}")|"
  echo "s|@PAGER_API@|$(escaped "${PAGER_API:-https://api.telegram.org}")|"
} > "$script"
sed -f "$script" "$file"
