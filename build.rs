//! Compiles the protos with a compiler in pure Rust, so that a build needs nothing but Rust.

use std::error::Error;
use std::path::PathBuf;

const PROTO: &str = "leftoff/v1/leftoff.proto";
/// Messages alone, and no part of what the reflection service tells of.
const CLOUDEVENTS: &str = "io/cloudevents/v1/cloudevents.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    // For the reflection service.
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("leftoff_descriptor.bin");
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::edge::codec::Codec")
        .file_descriptor_set_path(&out)
        .skip_protoc_run()
        .compile_fds(descriptors.clone())?;
    std::fs::write(out, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(protox::compile([CLOUDEVENTS], ["proto"])?)?;
    Ok(())
}
