#!/bin/sh
# Bring the programs the tests talk to into .tools/ (not installed: these packages would start services).
#   docker-registry   a registry on loopback
#   runc, crun        foreign OCI runtimes
#   docker            the CLI, unless one of version 23 or later is on PATH
#   skopeo            with `--with-skopeo`
# Idempotent: what is there already is not fetched again. Needs apt-get and dpkg-deb; root only where package lists are missing.
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/.tools
mkdir -p "$tools"

# Without package lists nothing can be found, let alone downloaded.
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get update -qq

fetch() { # package, a file it must bring
    [ -e "$tools/$2" ] && return 0
    work=$(mktemp -d)
    # As root throughout: apt's own download user cannot enter a private directory, and says so for each package.
    (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$1") || { rm -rf "$work"; return 1; }
    dpkg-deb -x "$work"/*.deb "$work/root"
    # Libraries and programs only: no units, no configuration.
    for part in usr/bin usr/sbin usr/lib; do
        [ -d "$work/root/$part" ] && mkdir -p "$tools/$part" && cp -a "$work/root/$part/." "$tools/$part/"
    done
    rm -rf "$work"
    [ -e "$tools/$2" ] || { echo "$1 has no $2" >&2; return 1; }
    echo "$1"
}

cli_is_new_enough() {
    command -v docker >/dev/null || return 1
    major=$(docker --version 2>/dev/null | sed -n 's/^Docker version \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 23 ]
}

fetch docker-registry usr/bin/docker-registry
fetch runc usr/sbin/runc
fetch libyajl2 "usr/lib/$(uname -m)-linux-gnu/libyajl.so.2"
fetch crun usr/bin/crun
ln -sf ../sbin/runc "$tools/usr/bin/runc"
cli_is_new_enough || fetch docker-cli usr/bin/docker 2>/dev/null || fetch docker.io usr/bin/docker
[ "${1:-}" != --with-skopeo ] || fetch skopeo usr/bin/skopeo
