#!/bin/sh
# Makes this machine a node of an ec2mpi cluster: settings, agent, service.
set -eu
umask 022

mkdir -p /etc/ec2mpi /opt/ec2mpi/bin /var/log/ec2mpi
(
    umask 077
    cat >/etc/ec2mpi/agent.toml.new <<'EC2MPI_END'
@SETTINGS@
EC2MPI_END
)
mv /etc/ec2mpi/agent.toml.new /etc/ec2mpi/agent.toml

architecture=$(uname -m)
case "$architecture" in
@AGENTS@
*)
    echo "ec2mpi: there is no agent for $architecture" >&2
    exit 1
    ;;
esac

fetch() {
    if command -v curl >/dev/null 2>&1; then
        curl -fsS --connect-timeout 10 --max-time 300 -o "$2" "$1"
    elif command -v wget >/dev/null 2>&1; then
        wget -q -t 1 -T 30 -O "$2" "$1"
    else
        python3 -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=30) as reply, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(reply, file)' "$1" "$2"
    fi
}

# OpenSSL uses the processor's instructions for it, and is five times as fast on every one of many machines.
sha256() {
    if command -v openssl >/dev/null 2>&1; then
        openssl dgst -sha256 -r "$1"
    else
        sha256sum "$1"
    fi | cut -d ' ' -f 1
}

# Waits for a coordinator that is being restarted: 8 minutes, or twice that where connections time out.
agent=/opt/ec2mpi/bin/ec2mpi-agent
attempt=1
until fetch "$url" "$agent.new" && [ "$(sha256 "$agent.new")" = "$sum" ]; do
    echo "ec2mpi: attempt $attempt to fetch the agent failed" >&2
    if [ "$attempt" -ge 60 ]; then
        exit 1
    fi
    if [ "$attempt" -le 10 ]; then sleep 1; else sleep 10; fi
    attempt=$((attempt + 1))
done
chmod 755 "$agent.new"
mv "$agent.new" "$agent"

if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/ec2mpi-agent.service <<'EC2MPI_END'
@UNIT@
EC2MPI_END
    systemctl daemon-reload
    systemctl enable --now --no-block ec2mpi-agent.service
else
    cat >/etc/rc.local <<'EC2MPI_END'
#!/bin/sh
# Starts the ec2mpi agent at every boot.
mkdir -p /var/log/ec2mpi
setsid /opt/ec2mpi/bin/ec2mpi-agent supervise >>/var/log/ec2mpi/supervise.log 2>&1 </dev/null &
EC2MPI_END
    chmod 755 /etc/rc.local
    /etc/rc.local
fi
