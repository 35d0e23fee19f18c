#!/bin/sh
# new_root.sh ROOT STATE SHARED CGROUPS: make a mount namespace whose root is a copy of the folder ROOT.
#
# The file STATE/mounts/namespace holds the namespace, for nsenter. The folder SHARED is
# the same inside and outside. Mounts made inside are invisible outside. A chroot does not suffice: runc
# starts containers in the machine's root, outside the chroot.
# CGROUPS is `machine` for the machine's control groups, or `v2` for a hierarchy of version 2.
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
case $4 in
    machine) mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup" ;;
    v2) mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" ;;
esac
for folder in /dev "$3"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
busybox=$(command -v busybox)
cd "$root"
mkdir -p mnt
"$busybox" pivot_root . mnt
exec "mnt$busybox" umount -l /mnt
