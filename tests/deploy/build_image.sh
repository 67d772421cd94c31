#!/usr/bin/env bash
# Build deploy/container/Containerfile where neither a container engine nor an image registry is at hand, and try it:
# mmdebstrap makes the base (what debian:bookworm-slim is made of), buildah runs the file's own steps in a chroot.
#
#   tests/deploy/build_image.sh FOLDER        needs root, mmdebstrap, buildah; about 6 GB in FOLDER for a while
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(realpath -m "$1")
mkdir -p "$work"
buildah() { command buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }

if ! buildah inspect --type image localhost/base >/dev/null 2>&1; then
    # The base carries this machine's package sources, as an image built in a hospital's network would have to.
    carried=(/etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d/99artifact-registry /etc/pip.conf \
        /root/.config/pip /etc/ssl/certs/ca-certificates.crt)
    mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$work/base.tar"
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/base.tar" /
    for path in "${carried[@]}"; do
        [ ! -e "$path" ] || buildah add -q "$container" "$path" "$path"
    done
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit -q --rm "$container" localhost/base
    rm "$work/base.tar"
fi

buildah build --layers --isolation chroot --pull-never --build-arg BASE=localhost/base \
    -f deploy/container/Containerfile -t localhost/allpacs .

# Run it as it will be run: its own user, a root file system that cannot be written.
container=$(buildah from --pull-never localhost/allpacs)
mount=$(buildah mount "$container")
du -sh --apparent-size "$mount" | cut -f1 | sed 's/^/root file system: /'
unshare --mount --net --pid --fork bash -euc '
    mount=$1
    ip link set lo up
    mount --bind "$mount" "$mount"
    mount -o remount,bind,ro "$mount"
    mount -t tmpfs tmpfs "$mount/tmp"
    mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs "$mount/var/lib/allpacs"
    mount -t proc proc "$mount/proc"
    mount --bind /dev "$mount/dev"
    inside() {
        env -i PATH=/opt/allpacs/bin:/usr/bin:/bin XDG_DATA_HOME=/var/lib HOME=/var/lib/allpacs \
            /usr/sbin/chroot --userspec=10001:10001 "$mount" "$@"
    }
    inside touch /tmp/written
    ! inside touch /opt/allpacs/written 2>/dev/null || { echo "the root file system can be written"; exit 1; }
    inside allpacs --version
    inside allpacs demo --out /tmp/demo
    inside allpacs serve --config /etc/allpacs/allpacs.toml &
    for _ in $(seq 60); do
        sleep 1
        inside allpacs health receive --config /etc/allpacs/allpacs.toml 2>/dev/null && break
    done
    inside allpacs echo ALLPACS@127.0.0.1:11112
    kill %1
    wait
' - "$mount"
buildah umount "$container" >/dev/null
echo "image built and run"
