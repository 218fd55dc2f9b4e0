# Sourced by .ci/run: installs and starts the servers that the service tests need, in a folder, on ports and in
# databases of their own, and stops exactly those. Whatever cannot be had is added to `absent`, by name.
services=$(mktemp -d)
absent=()
started=()

has() { case "$1" in /*) compgen -G "$1" >/dev/null ;; *) command -v "$1" >/dev/null ;; esac; }

# As root, or by a sudo that asks nothing, as hosted runners have it; fails where there is neither.
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@" 2>/dev/null; fi; }

# install PROGRAM PACKAGE WHAT: Debian's package if the program (a name or a path pattern) is missing; says what
# is lost without it.
install() {
  has "$1" && return
  if command -v apt-get >/dev/null && as_root true; then
    [ -n "${updated:-}" ] || { as_root apt-get update -qq >/dev/null 2>&1 || true; updated=1; }
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null 2>&1 || true
  fi
  has "$1" || absent+=("$2: $3")
}

free_port() { python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# PostgreSQL refuses to run as root.
as_postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

start_postgres() {
  local bin port
  bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1) || true  # absent, under pipefail
  [ -n "$bin" ] || return 0
  port=$(free_port)
  mkdir "$services/pg" && chmod 755 "$services"
  [ "$(id -u)" != 0 ] || chown postgres "$services/pg"
  as_postgres "$bin/initdb" -D "$services/pg/data" -U postgres --auth=trust >/dev/null
  as_postgres "$bin/pg_ctl" -D "$services/pg/data" -w -l "$services/pg/log" \
    -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=200" \
    start >/dev/null
  started+=("as_postgres $bin/pg_ctl -D $services/pg/data -m immediate stop")
  export ONETAKE_TEST_POSTGRES="postgresql://postgres@127.0.0.1:$port/"
}

start_redis() {
  local port
  command -v redis-server >/dev/null || return 0
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --dir "$services" --appendonly yes --maxmemory-policy noeviction \
    --daemonize yes --pidfile "$services/redis.pid" --logfile "$services/redis.log" >/dev/null
  started+=("redis-cli -p $port shutdown nosave")
  export ONETAKE_TEST_REDIS="redis://127.0.0.1:$port/9"
}

stop_services() {
  local one
  # bash 3.2, which macOS has, takes an empty array for an unset one.
  for one in ${started[@]+"${started[@]}"}; do $one >/dev/null 2>&1 || true; done
  rm -rf "$services"
}
