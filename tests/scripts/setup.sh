#!/usr/bin/env bash
# Installs what building, demo and tests need and this machine lacks. Says nothing when nothing is missing.
set -euo pipefail

packages=(openmpi-bin libopenmpi-dev openssh-server openssh-client iproute2 fuse3 gcc libc6-dev make curl
    ca-certificates util-linux python3 python3-venv git rsync s3fs libhdf5-openmpi-dev)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    # What apt starts (the sshd of the distribution) is not wanted: nodes run their own.
    ${SUDO:-} apt-get update -q
    ${SUDO:-} env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

if ! command -v cargo >/dev/null || ! command -v clippy-driver >/dev/null || ! cargo fmt --version >/dev/null 2>&1; then
    echo "error: Rust 1.95 or later with rustfmt and clippy is needed: see https://rustup.rs" >&2
    exit 1
fi
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

# Judges of the volume. Without optimization: they are compiled on every clean checkout, and wait for the mount mostly.
for tool in pjdfstest@0.2.2 fsx@0.3.2; do
    stamp=$TARGET/tools/$tool
    [ -e "$stamp" ] && continue
    echo "setup: installing $tool in $TARGET/tools"
    CARGO_TARGET_DIR=$TARGET/tools/build cargo install -q --locked --debug --force --root "$TARGET/tools" "$tool"
    rm -rf "$TARGET/tools/build"
    touch "$stamp"
done

# boto3 looks at the cloud as a stranger does (crt: the checksum CRC64NVME); grpcio runs the Python client of the scenarios.
wanted='boto3==1.44.5 botocore[crt]==1.44.5 grpcio==1.85.1 grpcio-tools==1.85.1'
venv=$TARGET/venv
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "setup: installing $wanted in $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # one word a package
    "$venv/bin/pip" install -q $wanted
    echo "$wanted" >"$venv/installed"
fi
