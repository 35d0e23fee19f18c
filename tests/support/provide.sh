# shellcheck shell=bash
# Functions that install what the tests need, for tests/run. As root on Debian, `provide_engines` installs the
# servers, and unpacks the engines in folders of their own.

system_packages=(buildah busybox-static chromium chromium-driver curl docker-registry e2fsprogs fonts-dejavu-core git haproxy
    iproute2 iptables libdevmapper1.02.1 netavark openssl prometheus prometheus-alertmanager
    prometheus-node-exporter prometheus-pushgateway runc skopeo systemd)

# Packages to unpack in separate folders, so that their versions are the same on every system: the folder, `alone` or `all`
# (with dependencies), releases of Debian, packages. Every Docker uses bookworm's runc, since later ones need a later C
# library. A Podman has its own root file system. The Pythons are for base images.
unpacked=(
    "runc alone bookworm runc"
    "docker-20.10 alone bookworm containerd docker.io"
    "docker-26.1 alone trixie containerd docker-buildx docker-cli docker-compose docker.io tini"
    "docker-28 alone forky containerd docker-cli docker.io"
    "podman-4.3 all bookworm base-files podman runc"
    "podman-5 all forky base-files podman runc"
    "podman-6 all sid,experimental base-files podman/experimental runc"
    "pushgateway-1.5 alone bookworm prometheus-pushgateway"
    "pushgateway alone forky prometheus-pushgateway"
    "python alone trixie libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 libpython3.13-minimal libpython3.13-stdlib
        libssl3t64 libzstd1 python3.13-minimal zlib1g"
    "python-3.14 alone forky libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 libpython3.14-minimal libpython3.14-stdlib
        libssl3t64 libzstd1 python3.14-minimal zlib1g"
)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/docker-prom-exporter

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
say() { echo "tests/run: $*" >&2; }

# Run a command, up to three times until it succeeds. If it never does, show the end of its output.
patiently() {
    local try
    for try in 1 2 3; do
        if "$@" >"$logs/last" 2>&1; then return; fi
        echo "attempt $try failed" >>"$logs/last"
    done
    tail -n 15 "$logs/last" >&2
    return 1
}

can_install() { [[ $EUID == 0 ]] && grep -qx 'ID=debian' /etc/os-release; }

# A failed update is ignored, as a third party's repository may be down: the installation shows whether the lists suffice.
apt_install() {
    apt-get update || true
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-remove --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "$@"
}

# Install packages without starting their services: a policy that forbids this temporarily replaces the machine's own.
install_without_services() (
    policy=/usr/sbin/policy-rc.d
    kept=$(mktemp --directory)
    # shellcheck disable=SC2317 # the trap reaches it
    restore() {
        rm -f "$policy"
        if [[ -e $kept/policy-rc.d ]]; then mv "$kept/policy-rc.d" "$policy"; fi
        rmdir "$kept"
    }
    if [[ -e $policy ]]; then mv "$policy" "$kept/"; fi
    trap restore EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    patiently apt_install "$@"
)

missing_system_packages() {
    local installed
    installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "${system_packages[@]}" 2>/dev/null || true)
    comm -13 <(sed -n 's/^installed //p' <<<"$installed" | sort) <(printf '%s\n' "${system_packages[@]}" | sort)
}

provide_system_packages() {
    local missing
    mapfile -t missing < <(missing_system_packages)
    if ((${#missing[@]})); then
        say "installing ${missing[*]}"
        install_without_services "${missing[@]}" || say "could not install ${missing[*]}: see above"
    fi
}

# Print the address of the Debian mirror that this machine uses.
debian_mirror() {
    # shellcheck disable=SC2016 # apt-get expands it
    apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Component: main' 'Created-By: Packages' |
        head -n 1
}

# Write the configuration of an apt with its own state in a folder, for which no package is installed.
private_apt() {
    local folder=$1 mirror=$2 releases=$3 release
    mkdir -p "$folder"/{cache,debs/partial,root,state/lists/partial}
    touch "$folder/status"
    for release in ${releases//,/ }; do
        echo "deb [signed-by=$keyring] $mirror $release main"
    done >"$folder/sources.list"
    cat >"$folder/apt.conf" <<EOF
Dir::Etc::SourceList "$folder/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$folder/state";
Dir::State::Status "$folder/status";
Dir::Cache "$folder/cache";
Dir::Cache::Archives "$folder/debs";
APT::Sandbox::User "root";
EOF
}

download_packages() (
    export APT_CONFIG=$1/apt.conf
    cd "$1/debs" && apt-get update
    case $2 in
        alone) apt-get download "${@:3}" ;;
        all) apt-get install --yes --download-only --no-install-recommends "${@:3}" ;;
    esac
)

# Download packages to a folder and unpack them there. Move the result to its target only when it is complete.
unpack_packages() {
    local folder=$1 target=$2 which=$3 releases=$4 mirror package
    shift 4
    mirror=$(debian_mirror)
    if [[ -z $mirror ]]; then
        say "apt knows no mirror of Debian"
        return 1
    fi
    private_apt "$folder" "$mirror" "$releases"
    patiently download_packages "$folder" "$which" "$@" || return
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root" || return; done
    echo "$which $releases $*" >"$folder/root/contents"
    rm -rf "$target"
    mv "$folder/root" "$target"
}

provide_unpacked() {
    local target=$cache/$1 folder
    shift
    if [[ $(cat "$target/contents" 2>/dev/null) == "$*" ]]; then return; fi
    say "unpacking ${*:3} of $2"
    folder=$(mktemp --directory "$target.XXXXXX")
    if [[ -z $(debian_mirror) ]]; then patiently apt-get update || true; fi
    unpack_packages "$folder" "$target" "$@" || say "could not unpack ${*:3}: see above"
    rm -rf "$folder"
}

provide_engines() (
    if ! can_install; then
        say "only root on Debian can unpack engines and install these packages: ${system_packages[*]}"
        exit
    fi
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9 # another tests/run may unpack at the same time
    provide_system_packages
    for line in "${unpacked[@]}"; do
        read -rd "" -a words <<<"$line" || true
        provide_unpacked "${words[@]}"
    done
)
