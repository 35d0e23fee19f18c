#!/bin/sh
# new_root.sh ROOT STATE FOLDER...: make a mount namespace whose root is a copy of the folder ROOT.
#
# The file STATE/mounts/namespace keeps it, for nsenter. FOLDERs are the same inside as outside; what else is mounted
# inside can't be seen outside. A chroot would not do: runc leads its containers out of it, to the machine's root.
# The control groups are a tree of version 2, which newer Podmans want, whatever the machine's are.
set -eu

state=$2
root=$state/root

if [ -z "${INSIDE-}" ]; then
    mkdir "$state/mounts" "$root" "$state/upper" "$state/work"
    mount --bind "$state/mounts" "$state/mounts"
    mount --make-private "$state/mounts"
    touch "$state/mounts/namespace"
    INSIDE=yes exec unshare --mount="$state/mounts/namespace" "$0" "$@"
fi

mount -t overlay overlay -o "lowerdir=$1,upperdir=$state/upper,workdir=$state/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
shift 2
for folder in /dev "$@"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
busybox=$(command -v busybox)
cd "$root"
mkdir -p mnt
pivot_root . mnt
exec "mnt$busybox" umount -l /mnt
