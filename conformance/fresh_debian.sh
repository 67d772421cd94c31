#!/usr/bin/env bash
# Run a command of this repository on a fresh Debian 12: mmdebstrap makes one with nothing but git, make and Python 3.11, a clone
# of what is committed here lies in it, and all that the command needs it has to install itself.
#
#   conformance/fresh_debian.sh FOLDER [COMMAND]     needs root, mmdebstrap; FOLDER outside the repository, about 10 GB
#
# COMMAND is `make conformance` where none is given. The clone lies in FOLDER/root/srv/allpacs, anew each time. All mounts are
# those of a namespace of its own and go with it.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(realpath -m "$1")
command=${2:-make conformance}
root=$work/root
mkdir -p "$work"

if [ ! -e "$work/made" ]; then
    rm -rf "$root"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,git,make,python3.11-venv bookworm "$root"
    touch "$work/made"
fi

# How this machine reaches package registries: a hospital's network has proxies and a certificate authority of its own.
for path in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /root/.npmrc /etc/resolv.conf; do
    [ ! -e "$path" ] || cp --dereference "$path" "$root$path"
done
mapfile -t registries < <(env | grep -E '^(PIP_CERT|PIP_DEFAULT_TIMEOUT|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE|https?_proxy|no_proxy)=')

rm -rf "$root/srv/allpacs"
git clone --quiet . "$root/srv/allpacs"
git -C "$root/srv/allpacs" log -1 --format='commit %h: %s'

# shellcheck disable=SC2016 # the inner shell expands its own parameters
exec unshare --mount --pid --fork --kill-child bash -euc '
    root=$1 shared=$2 command=$3
    shift 3
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    if [ -d "$shared" ]; then
        mkdir -p "$root/srv/shared"
        mount --bind "$shared" "$root/srv/shared"
        mount -o remount,bind,ro "$root/srv/shared"
    fi
    exec env -i HOME=/root LANG=C.UTF-8 CI=true PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" \
        chroot "$root" sh -c "cd /srv/allpacs && $command"
' - "$root" "$PWD/../shared" "$command" "${registries[@]}"
