//! The cloud's network: one bridge of its own, one namespace and one virtual cable a machine, no way out.
//!
//! Everything has a name that follows from the cloud's tag, so that it is found and removed by name.

pub(crate) mod cidr;
mod ip;
pub(crate) mod limits;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use cidr::Cidr;

use crate::faults::Cut;
use crate::fleet::InstanceId;
use crate::lock;
use crate::settings::CloudTag;

/// One cloud at a time chooses its network, or finds that it was the last one.
const TURN_LOCK: &str = "/run/lock/ec2mpi-network.lock";
const TURN_PATIENCE: Duration = Duration::from_secs(20);
/// Prefix of all bridges.
const BRIDGE_PREFIX: &str = "e2m";

/// Why the network could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot run ip (is iproute2 installed?): {0}")]
    Spawn(io::Error),
    #[error("ip {command}: {message}")]
    Ip { command: String, message: String },
    #[error("another process has been choosing a network for {} s", TURN_PATIENCE.as_secs())]
    Busy,
    #[error("no free network in 10.0.0.0/8")]
    NoFreeNetwork,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Names on this machine of what belongs to one cloud.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    tag: CloudTag,
}

impl Names {
    pub(crate) fn new(tag: CloudTag) -> Self {
        Self { tag }
    }

    pub(crate) fn bridge(&self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.tag.as_str())
    }

    fn netns_prefix(&self) -> String {
        format!("e2m-{}-", self.tag.as_str())
    }

    pub(crate) fn netns(&self, id: &InstanceId) -> String {
        format!("{}{id}", self.netns_prefix())
    }

    fn veth_prefix(&self) -> String {
        format!("e2v{}", self.tag.as_str())
    }

    /// This machine's end of the cable: at most 15 characters, so it is named by address, not by instance.
    pub(crate) fn veth(&self, host: u32) -> String {
        format!("{}{host:03x}", self.veth_prefix())
    }
}

/// Makes the bridge with its address, or finds it; answers the network it has.
///
/// `preferred` is what the cloud had before; it is taken again where it is free.
pub(crate) fn ensure_bridge(names: &Names, preferred: Option<Cidr>) -> Result<Cidr, NetworkError> {
    let _turn = take_turn()?;
    let bridge = names.bridge();
    let found = ip::addresses()?.into_iter().find(|address| address.device == bridge);
    let cidr = match found {
        Some(address) => address.network,
        None => cidr::choose(preferred, names.tag.seed(), &ip::taken()?).ok_or(NetworkError::NoFreeNetwork)?,
    };
    make_bridge(&bridge, cidr)?;
    limits::raise()?;
    Ok(cidr)
}

fn take_turn() -> Result<lock::HeldLock, NetworkError> {
    lock::acquire_within(Path::new(TURN_LOCK), TURN_PATIENCE)?.ok_or(NetworkError::Busy)
}

fn make_bridge(bridge: &str, cidr: Cidr) -> Result<(), NetworkError> {
    if !device(bridge).exists() {
        ip::run(&["link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
    }
    let (mac, address) = (mac(cidr.gateway()), format!("{}/{}", cidr.gateway(), cidr.prefix()));
    ip::run(&["link", "set", bridge, "address", &mac, "addrgenmode", "none", "up"])?;
    ip::run(&["addr", "replace", &address, "dev", bridge])?;
    Ok(())
}

/// A machine's place on the bridge.
#[derive(Debug, Clone)]
pub(crate) struct Port<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) veth: &'a str,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// Makes the namespace with its cable to the bridge; what an earlier attempt left is replaced.
pub(crate) fn plug(port: &Port<'_>) -> Result<(), NetworkError> {
    unplug(port.netns, port.veth)?;
    let Port { bridge, netns, veth, address, prefix } = port;
    ip::batch(
        None,
        &[
            format!("netns add {netns}"),
            format!("link add {veth} type veth peer name eth0 netns {netns}"),
            format!("link set {veth} addrgenmode none master {bridge} up"),
        ],
    )?;
    ip::batch(
        Some(netns),
        &[
            "link set lo up".to_owned(),
            format!("link set eth0 address {} addrgenmode none", mac(*address)),
            format!("addr add {address}/{prefix} brd + dev eth0"),
            "link set eth0 up".to_owned(),
        ],
    )
}

/// Removes the namespace and the cable, where they are there. Processes inside must have ended.
pub(crate) fn unplug(netns: &str, veth: &str) -> Result<(), NetworkError> {
    remove_link(veth)?;
    remove_netns(netns)
}

/// Lets packets through to all, to this machine only, or to nobody. The machine itself sees no change: its interface
/// stays up, and what it sends vanishes.
pub(crate) fn connect(port: &Port<'_>, cut: Option<Cut>) -> Result<(), NetworkError> {
    let Port { bridge, veth, address, .. } = port;
    match cut {
        None => {
            // Gone already where only the whole bridge was cut off.
            let _ = ip::run(&["route", "del", &format!("{address}/32"), "dev", veth]);
            ip::run(&["link", "set", veth, "master", bridge, "address", &far_mac(*address)])?;
        }
        Some(Cut::All) => {
            ip::run(&["link", "set", veth, "nomaster"])?;
            let _ = ip::run(&["route", "del", &format!("{address}/32"), "dev", veth]);
        }
        // Outside the bridge, this end of the cable answers for the gateway alone.
        Some(Cut::Nodes) => {
            let gateway = device_mac(bridge)?;
            ip::run(&["link", "set", veth, "nomaster", "address", &gateway])?;
            ip::run(&["route", "replace", &format!("{address}/32"), "dev", veth])?;
        }
    }
    Ok(())
}

fn device_mac(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(device(name).join("address"))?.trim().to_owned())
}

/// The namespaces of a cloud that are there.
pub(crate) fn namespaces(names: &Names) -> io::Result<Vec<String>> {
    entries(Path::new(NETNS_DIR), &names.netns_prefix())
}

/// Whether a bridge or namespace of the cloud is there.
pub(crate) fn is_there(names: &Names) -> io::Result<bool> {
    Ok(device(&names.bridge()).exists() || !namespaces(names)?.is_empty())
}

/// Removes every cable, namespace and the bridge of a cloud, and lowers the limits if it was the last one.
pub(crate) fn remove_all(names: &Names) -> Result<(), NetworkError> {
    for veth in entries(Path::new(DEVICES_DIR), &names.veth_prefix())? {
        remove_link(&veth)?;
    }
    for netns in namespaces(names)? {
        remove_netns(&netns)?;
    }
    let _turn = take_turn()?;
    remove_link(&names.bridge())?;
    if entries(Path::new(DEVICES_DIR), BRIDGE_PREFIX)?.is_empty() {
        limits::restore()?;
    }
    Ok(())
}

const NETNS_DIR: &str = "/run/netns";
const DEVICES_DIR: &str = "/sys/class/net";

/// The file that names a network namespace.
pub(crate) fn netns_path(netns: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(netns)
}

/// Of this machine's end of a cable.
fn far_mac(address: Ipv4Addr) -> String {
    mac(address).replacen("02:e2", "02:e3", 1)
}

fn device(name: &str) -> PathBuf {
    Path::new(DEVICES_DIR).join(name)
}

fn remove_link(name: &str) -> Result<(), NetworkError> {
    gone_after(ip::run(&["link", "delete", name]), &device(name))
}

fn remove_netns(name: &str) -> Result<(), NetworkError> {
    let path = netns_path(name);
    if !path.exists() {
        return Ok(());
    }
    gone_after(ip::run(&["netns", "delete", name]), &path)
}

/// A removal that failed because there was nothing to remove did not fail.
fn gone_after(result: Result<String, NetworkError>, path: &Path) -> Result<(), NetworkError> {
    match result {
        Err(error) if path.symlink_metadata().is_ok() => Err(error),
        _ => Ok(()),
    }
}

fn entries(directory: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let found = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// A locally administered address that follows from the IP address, so that neighbour tables stay right.
pub(crate) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:e2:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
