#!/usr/bin/env bash
# The main job from end to end: a cluster of four machines on the local cloud, an MPI program compiled and run on it,
# one result copied back, everything destroyed. Run it as root; `make demo` builds the two programs first.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="${CARGO_TARGET_DIR:-$PWD/target}/release:$PATH"

# State, control socket and cloud of this demo alone, so that it disturbs no other coordinator on this machine.
demo=$(mktemp -d "${TMPDIR:-/tmp}/ec2mpi-demo.XXXXXX")
export EC2MPI_STATE_DIR=$demo/coordinator EC2MPI_SOCKET=$demo/control.sock EC2MPI_CLOUD_DIR=$demo/cloud
# Whatever the user's configuration says: nothing here costs money.
export EC2MPI_CLOUD=local XDG_CONFIG_HOME=$demo/config

finish() {
    status=$?
    trap - EXIT INT TERM
    if [ "$status" -ne 0 ]; then
        echo "error: the demo failed (exit status $status); the ends of its logs:" >&2
        tail -n 15 "$demo"/coordinator/*.log "$demo"/cloud/*.log "$demo"/cloud/instances/*/console.log >&2 2>/dev/null || true
    fi
    # After a demo that went well both are gone already, and there is nothing to stop.
    if [ -d "$demo/coordinator" ]; then
        ec2mpi stop >/dev/null 2>&1 || true
        ec2mpi cloud stop --purge >/dev/null 2>&1 || true
    fi
    rm -rf "$demo"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

run() { # shows a command, then does it
    printf '\n$ %s\n' "$*"
    "$@"
}

begun=$SECONDS
run ec2mpi create demo --nodes 4
run ec2mpi cp tests/programs/replica_exchange.c demo:/shared/
run ec2mpi exec demo -- mpicc -O2 -o replica_exchange replica_exchange.c -lm
run ec2mpi run demo -n 8 -- ./replica_exchange --out results --sweeps 20000 | tee "$demo/output"
grep -q '^8 ranks on 4 hosts$' "$demo/output"
run ec2mpi status demo
run ec2mpi cp demo:/shared/results/replica-0003.dat "$demo/"
run head -n 4 "$demo/replica-0003.dat"
[ "$(wc -l <"$demo/replica-0003.dat")" -eq 20001 ]
run ec2mpi destroy demo
run ec2mpi cloud status
run ec2mpi stop
run ec2mpi cloud stop --purge

# The proof does not rest on the programs' word alone.
left=$(ps -eo args | grep -F "$demo" | grep -vF grep || true)
mounts=$(grep -F "$demo" /proc/mounts || true)
if [ -n "$left$mounts" ]; then
    printf 'error: left behind:\n%s\n%s\n' "$left" "$mounts" >&2
    exit 1
fi
printf '\nNo machine, process or mount is left. %d s in all.\n' "$((SECONDS - begun))"
