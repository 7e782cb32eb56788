#!/usr/bin/env bash
# Unpacks cloud-init and those of its Python packages that this machine lacks into $TARGET/cloud-init. Nothing is
# installed: an installed cloud-init would take part in the next boot of this machine.
set -euo pipefail
layer=$TARGET/cloud-init
[ ! -e "$layer" ] || exit 0
echo "setup: unpacking cloud-init in $layer"

work=$(mktemp -d "${TMPDIR:-/tmp}/cloud-init.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
missing() { apt-get -s install --no-install-recommends cloud-init | awk '/^Inst python3-/ {print $2}'; }
# shellcheck disable=SC2046 # one word a package
download() { apt-get download -q $(missing) cloud-init >/dev/null 2>&1; }
download || { ${SUDO:-} apt-get update -q && download; }
for package in *.deb; do
    dpkg-deb -x "$package" layer
done
# Where /lib is a link to /usr/lib, as it is on the machine below, a directory would hide it.
if [ -d layer/lib ]; then
    cp -a layer/lib/. layer/usr/lib/
    rm -rf layer/lib
fi
# What every machine makes for itself.
rm -rf layer/var/lib/cloud
mv layer "$layer"
