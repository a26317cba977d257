#!/bin/bash
# The first process of a host, in network, PID, mount, IPC and UTS namespaces of its own: host.sh FOLDER NAME PRIVATE PUBLIC GATEWAY.
# It may read the machine's disk, and writes only below its own folder: own home, own /tmp (Ray's folder), own /dev/shm.
set -euo pipefail
folder=$1 name=$2 private=$3 public=$4 gateway=$5

read -r _ # the harness has handed eth0 over
hostname "$name"
ip link set lo up
ip link set eth0 up
ip address add "$private/16" dev eth0
ip address add "$public/32" dev eth0
ip route add default via "$gateway" # without one Ray takes 127.0.0.1 for this host's address

# /home is the host's own, but whoever keeps the checkout or Python there finds them.
for entry in /home/*; do
    [[ -d $entry && $entry != /home/ray ]] || continue
    mkdir -p "$folder$entry"
    mount --bind "$entry" "$folder$entry"
    mount -o remount,bind,ro "$folder$entry"
done
mount --rbind "$folder/home" /home
mount --bind "$folder/passwd" /etc/passwd
printf '127.0.0.1 localhost\n%s %s\n' "$private" "$name" >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts # a name that leads to 127.0.0.1 is what gloo would tell the other hosts
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs -o size=16m tmpfs /run
mkdir /run/sshd
mount --bind "$folder/tmp" /tmp
mount -o remount,bind,ro /
exec /usr/sbin/sshd -D -e -f /home/ray/.ssh/sshd_config
