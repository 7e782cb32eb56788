#!/usr/bin/env bash
# Prints, sorted, one line for each thing on this host that the programs or their tests could leave behind, and a
# checksum of each shared file that they could spoil. Equal before and after means that nothing was left.
set -euo pipefail

processes() { # by the executable's or the interpreter's name; the pid tells two of a kind apart
    local process name
    for process in /proc/[0-9]*; do
        name=$(readlink "$process/exe" 2>/dev/null) || continue
        case ${name##*/} in
        ec2mpi* | mpirun* | orterun* | orted* | prterun* | sshd*)
            echo "process ${process#/proc/} $name $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | cut -c1-120)" ;;
        esac
    done
}

network() {
    ip netns list 2>/dev/null | awk '/^e2m/ {print "namespace " $1}'
    ip -o link show 2>/dev/null | awk -F': ' '$2 ~ /^e2m/ {sub(/@.*/, "", $2); print "interface " $2}'
    ip route show table all 2>/dev/null | awk '/ dev e2m/ {print "route " $1}'
}

mounts() { awk '$2 ~ /ec2mpi|e2m-/ || $1 ~ /ec2mpi/ {print "mount " $2}' /proc/mounts; }

files() {
    find /etc /opt /home /root /srv /usr/local /var/lib /var/log /var/tmp /run /dev/shm "${TMPDIR:-/tmp}" -xdev -maxdepth 2 \
        \( -path "$TARGET" -prune \) -o \( -name '*ec2mpi*' -o -name 'e2m*' -o -name mpi -o -name 'ompi.*' \) -print 2>/dev/null |
        sed 's/^/file /'
    for file in /etc/passwd /etc/group /etc/shadow /etc/hosts /etc/hostname /etc/environment /etc/resolv.conf \
        /etc/rc.local /etc/ssh/sshd_config /etc/ssh/ssh_config; do
        [ ! -e "$file" ] || echo "content $file $(sha256sum <"$file" | cut -c1-16)"
    done
    echo "content /etc/ssh $(ls /etc/ssh 2>/dev/null | sha256sum | cut -c1-16)"
}

{ processes; network; mounts; files; } | sort -u
