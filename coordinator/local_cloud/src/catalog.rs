//! What the local cloud has on offer: one region, one zone, one image, a few instance types.

use std::fmt;

/// The only region.
pub const REGION: &str = "local-1";
/// The only availability zone.
pub const ZONE: &str = "local-1a";
/// The zone's id, which on AWS names the same place in every account.
pub(crate) const ZONE_ID: &str = "loc1-az1";
/// Owner of everything.
pub(crate) const ACCOUNT: &str = "000000000000";
/// The only image: the root file system of this machine.
pub const IMAGE: &str = "ami-00000000000000001";
/// The only subnet: the cloud's bridge.
pub const SUBNET: &str = "subnet-00000000000000001";
pub(crate) const VPC: &str = "vpc-00000000000000001";
/// The only security group: everything between machines is open.
pub const SECURITY_GROUP: &str = "sg-00000000000000001";
/// The type launched when nothing else is asked for.
pub const DEFAULT_TYPE: &str = "local.machine";
/// The bucket that exists from the start.
pub const BUCKET: &str = "ec2mpi";

/// Processor architecture, in EC2's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86,
    Arm,
}

impl Architecture {
    /// Of this machine, and therefore of the image.
    pub(crate) fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm } else { Self::X86 }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        })
    }
}

/// One row of DescribeInstanceTypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceType {
    pub(crate) name: &'static str,
    pub(crate) architecture: Architecture,
    /// Physical cores: what MPI calls slots.
    pub(crate) cores: u32,
    pub(crate) threads_per_core: u32,
    pub(crate) memory_mib: u64,
    pub(crate) efa: bool,
}

/// Every type; a `local.machine` has `slots` cores.
pub(crate) fn instance_types(slots: u32) -> Vec<InstanceType> {
    let row = |name, architecture, cores, threads_per_core, memory_mib| InstanceType {
        name,
        architecture,
        cores,
        threads_per_core,
        memory_mib,
        efa: false,
    };
    vec![
        row(DEFAULT_TYPE, Architecture::host(), slots, 1, 2048 * u64::from(slots)),
        row("c7i.large", Architecture::X86, 1, 2, 4096),
        row("c7i.xlarge", Architecture::X86, 2, 2, 8192),
        row("c7i.2xlarge", Architecture::X86, 4, 2, 16384),
        row("c7g.xlarge", Architecture::Arm, 4, 1, 8192),
    ]
}

/// The type of that name.
pub(crate) fn instance_type(name: &str, slots: u32) -> Option<InstanceType> {
    instance_types(slots).into_iter().find(|kind| kind.name == name)
}
