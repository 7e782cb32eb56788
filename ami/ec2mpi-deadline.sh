#!/bin/sh
# Powers this machine off when its time to live is over, whatever else runs or hangs; the instance is launched so that
# this terminates it. The time, in seconds since the epoch, is in a file, so that a reboot does not change it.
set -eu
deadline=$(cat /etc/ec2mpi/deadline)
case $deadline in
'' | *[!0-9]*)
    echo "ec2mpi: /etc/ec2mpi/deadline holds no time" >&2
    exit 1
    ;;
esac
# The clock may be set meanwhile, so it is looked at again and again.
while left=$((deadline - $(date +%s))) && [ "$left" -gt 0 ]; do
    if [ "$left" -gt 30 ]; then sleep 30; else sleep 1; fi
done
echo "ec2mpi: the time to live is over: powering off"
# What was written to the volume goes to S3 first, if that is a matter of seconds.
timeout -k 5 60 /opt/ec2mpi/bin/ec2mpi-agent drain /shared --timeout 50 --control /run/ec2mpi/volume.sock || true
if [ -d /run/systemd/system ]; then
    systemctl poweroff || true
    sleep 120
fi
while :; do
    poweroff -f || true
    sleep 5
done
