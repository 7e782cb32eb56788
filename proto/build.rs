//! Compiles the protocol files with protox, so that no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["src/ec2mpi/v1/control.proto", "src/ec2mpi/v1/agent.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["src"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
