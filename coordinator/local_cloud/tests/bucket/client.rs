//! A blocking S3 client that knows nothing of the service's code: one connection a request, Signature Version 4.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const IN_PATHS: &AsciiSet = &UNRESERVED.remove(b'/');

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) access_key: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The contents of every XML element of this name.
    pub(crate) fn all(&self, element: &str) -> Vec<String> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        self.text().split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
    }

    pub(crate) fn one(&self, element: &str) -> String {
        self.all(element).into_iter().next().unwrap_or_else(|| panic!("no {element} in {}", self.text()))
    }
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

impl Client {
    /// Sends a request. The path is not encoded yet, the query is.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut stream = self.begin(method, path, query, headers, body.len() as u64)?;
        stream.write_all(body)?;
        finish(stream)
    }

    /// A connection with the head of a request sent.
    pub(crate) fn begin(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        length: u64,
    ) -> io::Result<TcpStream> {
        let path = utf8_percent_encode(path, IN_PATHS).to_string();
        let mut request = format!("{method} {path}{}{query} HTTP/1.1\r\n", if query.is_empty() { "" } else { "?" });
        for (name, value) in self.signed(method, &path, query) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("connection: close\r\ncontent-length: {length}\r\n\r\n"));
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }

    /// The headers that sign a request, body not included.
    fn signed(&self, method: &str, path: &str, query: &str) -> BTreeMap<String, String> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &time[..8];
        let mut headers = BTreeMap::from([
            ("host".to_owned(), self.address.to_string()),
            ("x-amz-content-sha256".to_owned(), "UNSIGNED-PAYLOAD".to_owned()),
            ("x-amz-date".to_owned(), time.clone()),
        ]);
        if let Some(token) = &self.token {
            headers.insert("x-amz-security-token".to_owned(), token.clone());
        }
        let names = headers.keys().cloned().collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        pairs.sort();
        let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", pairs.join("&"));
        let scope = format!("{day}/local-1/s3/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let start = format!("AWS4{}", self.secret).into_bytes();
        let key = [day, "local-1", "s3", "aws4_request"].iter().fold(start, |key, step| hmac(&key, step.as_bytes()));
        let signature = hex::encode(hmac(&key, to_sign.as_bytes()));
        let credential = format!("{}/{scope}", self.access_key);
        let value = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        headers.insert("authorization".to_owned(), value);
        headers
    }

    pub(crate) fn put(&self, key: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        self.send("PUT", &format!("/bkt/{key}"), "", headers, body)
    }

    pub(crate) fn get(&self, key: &str) -> io::Result<Reply> {
        self.send("GET", &format!("/bkt/{key}"), "", &[], b"")
    }

    pub(crate) fn delete(&self, key: &str) -> io::Result<Reply> {
        self.send("DELETE", &format!("/bkt/{key}"), "", &[], b"")
    }

    /// All keys and tags, in pages of so many.
    pub(crate) fn list(&self, page_size: usize) -> Vec<(String, String)> {
        let base = format!("encoding-type=url&list-type=2&max-keys={page_size}");
        let (mut found, mut query) = (Vec::new(), base.clone());
        loop {
            let page = self.send("GET", "/bkt", &query, &[], b"").unwrap();
            assert_eq!(page.status, 200, "{}", page.text());
            let decode = |key: String| percent_encoding::percent_decode_str(&key).decode_utf8().unwrap().into_owned();
            let tags = page.all("ETag").into_iter().map(|tag| tag.replace("&quot;", "").replace('"', ""));
            found.extend(page.all("Key").into_iter().map(decode).zip(tags));
            if page.one("IsTruncated") == "false" {
                return found;
            }
            let token = page.one("NextContinuationToken");
            query = format!("continuation-token={token}&{base}");
        }
    }
}

/// The reply to a request sent whole.
pub(crate) fn finish(mut stream: TcpStream) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the reply was cut off"))
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
    let body = bytes[end + 4..].to_vec();
    let whole = headers.get("content-length").is_none_or(|length| length.parse() == Ok(body.len()));
    (whole || status == 304).then_some(Reply { status, headers, body })
}
