#!/bin/sh
# Bring the programs the tests talk to into .tools/ (not installed: these packages would start services).
#   docker-registry   a registry on loopback
#   runc, crun        foreign OCI runtimes
#   docker            the CLI, unless one of version 23 or later is on PATH
#   docker compose    version 2, as a plugin of the CLI, unless the CLI has one
#   skopeo, dockerd   others that images go to and come from
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
    # APT_OPTIONS are words, not one.
    # shellcheck disable=SC2086
    (cd "$work" && apt-get ${APT_OPTIONS:-} -o APT::Sandbox::User=root download -qq "$1") || { rm -rf "$work"; return 1; }
    dpkg-deb -x "$work"/*.deb "$work/root"
    # Libraries and programs only: no units, no configuration.
    for part in usr/bin usr/sbin usr/lib usr/libexec; do
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

# Debian 12 has only compose 1, which is another program: there the plugin comes from the next release, whose lists are
# kept apart from the machine's own.
fetch_compose() {
    plugin=usr/libexec/docker/cli-plugins/docker-compose
    [ -e "$tools/$plugin" ] || docker compose version >/dev/null 2>&1 && return 0
    for package in docker-compose-v2 docker-compose; do
        case $(apt-cache policy "$package" 2>/dev/null | sed -n 's/ *Candidate: *//p') in
            2.*|[3-9].*) fetch "$package" "$plugin"; return ;;
        esac
    done
    archive=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | awk '$2 == "bookworm" {print $1; exit}')
    [ -n "$archive" ] || return 1
    lists=$(mktemp -d)
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
    : >"$lists/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >"$lists/sources.list"
    options="-o Dir::Etc::sourcelist=$lists/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$lists/lists"
    options="$options -o Dir::State::status=$lists/status -o Dir::Cache=$lists/cache"
    # shellcheck disable=SC2086
    apt-get $options -o APT::Sandbox::User=root update -qq && APT_OPTIONS=$options fetch docker-compose "$plugin"
    status=$?
    rm -rf "$lists"
    return $status
}

fetch docker-registry usr/bin/docker-registry
fetch runc usr/sbin/runc
fetch libyajl2 "usr/lib/$(uname -m)-linux-gnu/libyajl.so.2"
fetch crun usr/bin/crun
ln -sf ../sbin/runc "$tools/usr/bin/runc"
cli_is_new_enough || fetch docker-cli usr/bin/docker 2>/dev/null || fetch docker.io usr/bin/docker
fetch_compose || echo "no docker compose: its tests will be skipped" >&2

libraries="usr/lib/$(uname -m)-linux-gnu"
lacks() { # program, a library
    LD_LIBRARY_PATH=$tools/$libraries ldd "$tools/usr/bin/$1" | grep -q "$2.*not found"
}

# What they are linked to and a small machine has not; the names are Debian 12's and those since.
fetch_skopeo() {
    fetch skopeo usr/bin/skopeo || return 1
    lacks skopeo libgpgme || return 0
    fetch libgpgme11 "$libraries/libgpgme.so.11" 2>/dev/null || fetch libgpgme11t64 "$libraries/libgpgme.so.11"
    fetch libassuan0 "$libraries/libassuan.so.0" 2>/dev/null || fetch libassuan9 "$libraries/libassuan.so.9"
}
fetch_skopeo || echo "no skopeo: its tests will be skipped" >&2

# Debian has it in sbin, Ubuntu in bin.
fetch_dockerd() {
    if [ ! -e "$tools/usr/bin/dockerd" ]; then
        fetch docker.io usr/sbin/dockerd 2>/dev/null && ln -sf ../sbin/dockerd "$tools/usr/bin/dockerd"
    fi
    fetch containerd usr/bin/containerd || return 1
    ! lacks dockerd libdevmapper || fetch libdevmapper1.02.1 "$libraries/libdevmapper.so.1.02.1"
}
fetch_dockerd || echo "no dockerd: its tests will be skipped" >&2
