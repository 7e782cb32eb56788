//! What the local cloud has on offer: one region, two zones with a subnet each, one image, a few instance types.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::network::Cidr;

/// The only region.
pub const REGION: &str = "local-1";
/// Owner of everything.
pub(crate) const ACCOUNT: &str = "000000000000";
/// The only image: the root file system of this machine.
pub const IMAGE: &str = "ami-00000000000000001";
pub(crate) const VPC: &str = "vpc-00000000000000001";
/// The only security group: everything between machines is open.
pub const SECURITY_GROUP: &str = "sg-00000000000000001";
/// The type launched when nothing else is asked for.
pub const DEFAULT_TYPE: &str = "local.machine";
/// The bucket that exists from the start.
pub const BUCKET: &str = "ec2mpi";

/// An availability zone. Both are on the cloud's bridge; each has half of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Zone {
    A,
    B,
}

impl Zone {
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "local-1a",
            Self::B => "local-1b",
        }
    }

    /// What on AWS names the same place in every account.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::A => "loc1-az1",
            Self::B => "loc1-az2",
        }
    }

    /// Its only subnet.
    pub(crate) fn subnet(self) -> &'static str {
        match self {
            Self::A => "subnet-00000000000000001",
            Self::B => "subnet-00000000000000002",
        }
    }

    /// The part of the cloud's network that is its subnet.
    pub(crate) fn network(self, whole: Cidr) -> Cidr {
        let [lower, upper] = whole.halves();
        match self {
            Self::A => lower,
            Self::B => upper,
        }
    }
}

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
