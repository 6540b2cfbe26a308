#!/usr/bin/env bash
# Tests etcd twice: its linearizable reads, which must hold, and its serializable reads, which must be seen not to be linearizable.
#   bash jepsen/examples/etcd/run.sh [SEED]
# etcd comes from PATH, else from the package etcd-server of Debian or Ubuntu, which is unpacked beside what cargo builds: so no
# service of etcd starts on this machine. Partitions need root, for each process gets a network of its own.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
seed=${1:-1}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
unpacked=$target/etcd

if [[ $EUID != 0 ]]; then
    echo "Partitions need root: sudo -E env \"PATH=\$PATH\" bash jepsen/examples/etcd/run.sh" >&2
    echo "Without root, and with etcd in PATH, processes can be killed and paused:" >&2
    echo "  cargo run --profile ci -p understudy-jepsen --example etcd -- --nemesis kill,pause" >&2
    exit 2
fi

unpack_etcd() {
    downloaded=$(mktemp -d)
    trap 'rm -rf "$downloaded"' EXIT
    if ! download && ! { apt-get update -q && download; }; then
        echo "The package etcd-server cannot be had: install etcd 3.4 or later, so that it is in PATH." >&2
        exit 2
    fi
    mkdir -p "$unpacked"
    dpkg-deb -x "$downloaded"/etcd-server_*.deb "$unpacked"
}

download() (
    cd "$downloaded"
    apt-get download -q etcd-server
)

if etcd=$(command -v etcd); then
    echo "etcd is here: $etcd"
elif [[ -x $unpacked/usr/bin/etcd ]]; then
    etcd=$unpacked/usr/bin/etcd
elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    unpack_etcd
    etcd=$unpacked/usr/bin/etcd
else
    echo "There is neither etcd nor apt-get: install etcd 3.4 or later, so that it is in PATH." >&2
    exit 2
fi

cargo build --profile ci --locked -p understudy-jepsen --example etcd
test_etcd() {
    "$target/ci/examples/etcd" --binary "$etcd" --time 60s --seed "$seed" "$@"
}

echo "--- linearizable reads: nothing may be found"
test_etcd --nemesis kill,pause,partition --reads linearizable
echo "--- serializable reads: that they are not linearizable has to be found"
test_etcd --nemesis kill,partition-primary --reads serializable
