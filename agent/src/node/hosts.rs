//! The block in `/etc/hosts` that names the peers.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::durable;

const BEGIN: &str = "# ec2mpi: the nodes of this cluster (begin)";
const END: &str = "# ec2mpi: the nodes of this cluster (end)";

/// One node, as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host_name: String,
    pub address: Ipv4Addr,
}

/// Puts the peers into the file in place of the former ones; the rest of it stays as it is.
pub fn write(path: &Path, peers: &[Peer]) -> io::Result<()> {
    let old = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let new = with_peers(&old, peers);
    if new == old {
        return Ok(());
    }
    // A hosts file that is a mount of its own (containers) cannot be renamed over.
    match durable::overwrite(path, 0o644, new.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::fs::write(path, new),
        other => other,
    }
}

/// The text with its block replaced, or appended where there is none. A block whose end is missing ends at the
/// end of the text.
fn with_peers(text: &str, peers: &[Peer]) -> String {
    let mut new = without_block(text);
    if !new.is_empty() && !new.ends_with('\n') {
        new.push('\n');
    }
    new.push_str(BEGIN);
    new.push('\n');
    for peer in peers {
        new.push_str(&format!("{} {}\n", peer.address, peer.host_name));
    }
    new.push_str(END);
    new.push('\n');
    new
}

fn without_block(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if !inside => kept.push_str(line),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, last: u8) -> Peer {
        Peer { host_name: name.to_owned(), address: Ipv4Addr::new(10, 0, 0, last) }
    }

    #[test]
    fn the_block_is_appended_then_replaced_and_the_rest_stays() {
        let first = with_peers("127.0.0.1 localhost", &[peer("demo-0", 1), peer("demo-1", 2)]);
        assert_eq!(first, format!("127.0.0.1 localhost\n{BEGIN}\n10.0.0.1 demo-0\n10.0.0.2 demo-1\n{END}\n"));
        let second = with_peers(&format!("{first}::1 six\n"), &[peer("demo-0", 9)]);
        assert_eq!(second, format!("127.0.0.1 localhost\n::1 six\n{BEGIN}\n10.0.0.9 demo-0\n{END}\n"));
        assert_eq!(with_peers(&second, &[peer("demo-0", 9)]), second);
    }

    #[test]
    fn a_missing_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        write(&path, &[peer("a-0", 1)]).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("10.0.0.1 a-0\n"));
    }
}
