#!/usr/bin/env bash
# Tests etcd twice: its linearizable reads, which must hold, and its serializable reads, which must be seen not to be linearizable.
#   bash jepsen/examples/etcd/run.sh [SEED]
# etcd is taken from PATH, else from the package etcd-server of Debian or Ubuntu, which is unpacked beside what cargo builds:
# nothing is installed, and no service starts. Partitions need root (each process gets a network of its own).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
seed=${1:-1}
unpacked=$(realpath -m "${CARGO_TARGET_DIR:-target}")/etcd

get_etcd() {
    local folder
    folder=$(mktemp -d)
    # apt drops its rights to download, and has to be able to write there.
    chmod 755 "$folder"
    trap "rm -rf '$folder'" RETURN
    download() { (cd "$folder" && apt-get download -q etcd-server); }
    if ! download; then
        as_root apt-get update -q
        download
    fi
    mkdir -p "$unpacked"
    dpkg-deb -x "$folder"/etcd-server_*.deb "$unpacked"
}

as_root() {
    if [[ $EUID == 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

if etcd=$(command -v etcd); then
    :
elif [[ -x $unpacked/usr/bin/etcd ]]; then
    etcd=$unpacked/usr/bin/etcd
elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    get_etcd
    etcd=$unpacked/usr/bin/etcd
else
    echo "There is no etcd here and no apt-get: put etcd 3.4 or later into PATH (https://github.com/etcd-io/etcd/releases)." >&2
    exit 2
fi

if [[ $EUID != 0 ]]; then
    echo "Partitions need root: run this as root, or \`cargo run --profile ci -p understudy-jepsen --example etcd -- --binary $etcd --nemesis kill,pause\` without." >&2
    exit 2
fi

cargo build --profile ci --locked -p understudy-jepsen --example etcd
program=$(realpath -m "${CARGO_TARGET_DIR:-target}")/ci/examples/etcd
common=(--binary "$etcd" --time 60s --seed "$seed")

echo "--- linearizable reads: must be linearizable"
"$program" "${common[@]}" --nemesis kill,pause,partition --reads linearizable
echo "--- serializable reads: must be caught not to be"
"$program" "${common[@]}" --nemesis kill,partition-primary --reads serializable
