//! The `ip` program of iproute2.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use super::{Cidr, NetworkError};

/// One address of a device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceAddress {
    pub(super) device: String,
    pub(super) network: Cidr,
}

/// `ip ARGS`; what it printed.
pub(super) fn run(args: &[&str]) -> Result<String, NetworkError> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(NetworkError::Spawn)?;
    checked(&output, || args.join(" "))
}

/// Several commands by one process, inside `netns` if told; stops at the first that fails.
pub(super) fn batch(netns: Option<&str>, lines: &[String]) -> Result<(), NetworkError> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-netns", netns]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NetworkError::Spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that ended early says why on stderr.
        let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(NetworkError::Spawn)?;
    checked(&output, || lines.join("; ")).map(|_| ())
}

fn checked(output: &Output, command: impl FnOnce() -> String) -> Result<String, NetworkError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetworkError::Ip { command: command(), message })
}

/// Every IPv4 address of this machine.
pub(super) fn addresses() -> Result<Vec<DeviceAddress>, NetworkError> {
    let text = run(&["-json", "-4", "addr"])?;
    Ok(parse_addresses(&text)?)
}

/// Every network this machine has an address in or a route to, but the default route.
pub(super) fn taken() -> Result<Vec<Cidr>, NetworkError> {
    let routes = run(&["-json", "-4", "route", "show", "table", "all"])?;
    let mut taken: Vec<Cidr> = addresses()?.into_iter().map(|address| address.network).collect();
    taken.extend(parse_routes(&routes)?);
    Ok(taken)
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    addr_info: Vec<AddrInfo>,
}

#[derive(Deserialize)]
struct AddrInfo {
    local: Ipv4Addr,
    prefixlen: u8,
}

#[derive(Deserialize)]
struct Route {
    #[serde(default)]
    dst: String,
}

fn parse_addresses(text: &str) -> std::io::Result<Vec<DeviceAddress>> {
    let devices: Vec<Device> = serde_json::from_str(text)?;
    let of_device = |device: Device| {
        let Device { ifname, addr_info } = device;
        addr_info
            .into_iter()
            .map(move |info| DeviceAddress { device: ifname.clone(), network: Cidr::of(info.local, info.prefixlen) })
    };
    Ok(devices.into_iter().flat_map(of_device).collect())
}

fn parse_routes(text: &str) -> std::io::Result<Vec<Cidr>> {
    let routes: Vec<Route> = serde_json::from_str(text)?;
    Ok(routes.iter().filter_map(|route| route.dst.parse().ok()).filter(|cidr: &Cidr| cidr.prefix() > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let text = r#"[{"ifindex":1,"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},
            {},{"ifindex":2,"ifname":"eth0","addr_info":[{"local":"192.0.2.2","prefixlen":24}]}]"#;
        let found = parse_addresses(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].device.as_str(), found[1].network.to_string()), ("eth0", "192.0.2.0/24".to_owned()));
    }

    #[test]
    fn reads_routes_but_the_default_one() {
        let text = r#"[{"dst":"default","gateway":"192.0.2.1"},{"dst":"10.9.0.0/16"},
            {"type":"local","dst":"127.0.0.1","table":"local"},{"dst":"0.0.0.0/0"}]"#;
        let found: Vec<String> = parse_routes(text).unwrap().iter().map(Cidr::to_string).collect();
        assert_eq!(found, ["10.9.0.0/16", "127.0.0.1/32"]);
    }
}
