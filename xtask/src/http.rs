//! As much HTTP as asking our own server on this machine needs, without a library to build first.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// Replies are small; a larger one is a fault.
const MAX_REPLY_BYTES: u64 = 16 << 20;

/// A free port of the loopback.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on the loopback")?.local_addr()?.port())
}

/// Sends one request to the server at `port`; gives status and body.
pub(crate) fn request(port: u16, method: &str, path: &str, body: &str, timeout: Duration) -> Result<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // HTTP/1.0: the reply is not chunked and ends with the connection.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(MAX_REPLY_BYTES).read_to_end(&mut reply)?;
    parse(&String::from_utf8_lossy(&reply))
}

fn parse(reply: &str) -> Result<(u16, String)> {
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { bail!("the server's reply has no end of headers") };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((
        status.with_context(|| format!("the server's reply begins with `{}`", head.lines().next().unwrap_or("")))?,
        body.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn replies() {
        assert_eq!(parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\nbody").unwrap(), (200, "body".to_owned()));
        assert!(parse("HTTP/1.0").is_err());
        assert!(parse("nonsense\r\n\r\n").is_err());
    }
}
