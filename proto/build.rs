//! Compiles the .proto files without protoc: protox parses, tonic-prost-build generates.

use prost::Message;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "understudy/v1/objects.proto",
        "understudy/v1/request_log.proto",
        "understudy/v1/naming.proto",
        "understudy/v1/cluster.proto",
        "understudy/v1/internal.proto",
        "understudy/v1/agent.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=understudy/v1/types.proto");
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("understudy.v1.bin"), descriptors.encode_to_vec())?;
    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(grpc)
        .build_server(grpc)
        .compile_fds(descriptors)?;
    Ok(())
}
