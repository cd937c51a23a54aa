//! Compiles the protobuf files with protox: no protoc is needed to build Signet.

const FILES: [&str; 2] = ["signet/ca/v1/ca.proto", "signet/control/v1/control.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .codec_path("crate::Frugal")
        // Queues of messages have room for the largest of their kinds.
        .boxed("signet.control.v1.Down.kind.config")
        .compile_fds(descriptors)?;
    Ok(())
}
