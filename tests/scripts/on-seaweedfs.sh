#!/usr/bin/env bash
# Starts SeaweedFS on 127.0.0.1, where `make bench-setup` has installed it, and runs the tests of the volume's durability
# on it (arguments: nextest's).
set -euo pipefail
cd "$(dirname "$0")/../.."

weed=$TARGET/bench-venv/bin/weed
if [ ! -x "$weed" ]; then
    echo "on-seaweedfs: left out, SeaweedFS is not installed (\`make bench-setup\` does it)"
    exit 0
fi

place=$(mktemp -d "${TMPDIR:-/tmp}/seaweedfs.XXXXXX")
server=
end() {
    # Its parts are threads of one process.
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$place"
}
trap end EXIT

# Every port takes the one 10,000 above, too.
ports() {
    python3 - <<'EOF'
import random, socket
found = []
while len(found) < 5:
    port = random.randrange(20000, 32000)
    try:
        for one in (port, port + 10000):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", one))
        found.append(port)
    except OSError:
        pass
print(*found)
EOF
}
read -r s3 master volume filer admin < <(ports)

export AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret AWS_EC2_METADATA_DISABLED=true
cat >"$place/s3.json" <<EOF
{"identities": [{"name": "tests", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
EOF
mkdir "$place/data"
(
    cd "$place"
    HOME=$place exec "$weed" mini -dir="$place/data" -s3.config="$place/s3.json" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -s3.port="$s3" -master.port="$master" -volume.port="$volume" -filer.port="$filer" -admin.port="$admin" \
        -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false -volume.max=200 \
        -s3.localSocket="$place/s3.sock" -filer.localSocket="$place/filer.sock"
) >"$place/log" 2>&1 &
server=$!

made() {
    echo 's3.bucket.create -name durable' | HOME=$place timeout 10 "$weed" shell -master="127.0.0.1:$master" \
        -filer="127.0.0.1:$filer" >"$place/shell" 2>&1 && grep -q 'durable' "$place/shell" && ! grep -qi 'error' "$place/shell"
}
for try in $(seq 30); do
    made && break
    if [ "$try" = 30 ]; then
        cat "$place/shell" >&2
        tail -50 "$place/log" >&2
        echo "on-seaweedfs: SeaweedFS does not start" >&2
        exit 1
    fi
    sleep 1
done

echo "on-seaweedfs: $("$weed" version | head -1)"
EC2MPI_TEST_S3=127.0.0.1:$s3/durable cargo nextest run --release --workspace --profile "${PROFILE:-soak}" \
    -E 'package(ec2mpi-agent) & binary(durable)' "$@"
