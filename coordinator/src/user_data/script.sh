#!/bin/sh
# Makes this machine a node of an ec2mpi cluster: deadline, settings, agent, service.
set -eu
umask 022

# Anywhere but on the instance that was launched with it, this script changes nothing and above all starts no timer
# that ends the machine: the metadata service has to name an instance and to hold this very script.
imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
ask() { # METHOD HEADER PATH...
    method=$1 header=$2
    shift 2
    for path; do
        shift
        set -- "$@" "$imds/latest/$path"
    done
    if command -v curl >/dev/null 2>&1; then
        curl -fsS --noproxy '*' --connect-timeout 2 --max-time 5 -X "$method" -H "$header" "$@"
    else
        python3 -c 'import sys, urllib.request as web
web.install_opener(web.build_opener(web.ProxyHandler({})))
for url in sys.argv[3:]:
    asked = web.Request(url, method=sys.argv[1], headers=dict([sys.argv[2].split(": ")]))
    sys.stdout.write(web.urlopen(asked, timeout=5).read().decode())' "$method" "$header" "$@"
    fi
}
is_mine() {
    session=$(ask PUT 'X-aws-ec2-metadata-token-ttl-seconds: 60' api/token) || return 1
    case $(ask GET "X-aws-ec2-metadata-token: $session" meta-data/instance-id user-data) in
    i-*'launch_id = "@LAUNCH@"'*) ;;
    *) return 1 ;;
    esac
}
attempt=1
until is_mine; do
    echo "ec2mpi: attempt $attempt: no metadata service says that this machine was launched with this script" >&2
    if [ "$attempt" -ge 20 ]; then
        echo 'ec2mpi: nothing was changed' >&2
        exit 1
    fi
    sleep 1
    attempt=$((attempt + 1))
done

mkdir -p /etc/ec2mpi /opt/ec2mpi/bin /var/log/ec2mpi

# Starts a program now and at every boot; where there is systemd, by the unit of that name.
keep() { # NAME COMMAND
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl enable --now --no-block "$1.service"
        return
    fi
    if ! [ -x /etc/rc.local ]; then
        echo '#!/bin/sh' >/etc/rc.local
        chmod 755 /etc/rc.local
    fi
    start="setsid /opt/ec2mpi/bin/$2 >>/var/log/ec2mpi/$1.log 2>&1 </dev/null &"
    echo "$start" >>/etc/rc.local
    sh -c "$start"
}

@ARM@
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
fi
keep ec2mpi-agent 'ec2mpi-agent supervise'
