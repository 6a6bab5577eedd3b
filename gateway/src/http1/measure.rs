//! What a bench may time of heads: parsers and writers are private. No request passes through here.

use config::table::{HeaderModifier, Limits};

use super::head::{self, Field, RequestHead};
use super::scan::HeadScan;
use super::write::{self, Onward};
use crate::proxy::cdn_loop::LoopToken;
use crate::record::Reason;

/// One request head after the other, in buffers that are used again, as a connection does it.
#[derive(Debug, Default)]
pub struct Heads {
    limits: Limits,
    head: RequestHead,
    fields: Vec<Field>,
    written: Vec<u8>,
    modifier: HeaderModifier,
    token: LoopToken,
}

impl Heads {
    /// Finds the end of the head in `bytes` and parses it. Returns how many fields it has.
    ///
    /// # Errors
    /// What the gateway would answer.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let length = HeadScan::default().advance(bytes).map_err(|_| Reason::BadRequest)?;
        let head = length.and_then(|length| bytes.get(..length)).ok_or(Reason::BadRequest)?;
        self.head = head::parse(head, &self.limits, &mut self.fields)?;
        Ok(self.fields.len())
    }

    /// Writes the head that was parsed last, from `bytes`, as an endpoint gets it.
    pub fn encode(&mut self, bytes: &[u8]) -> &[u8] {
        let host = self.head.host.get(bytes);
        let onward = Onward {
            path: std::str::from_utf8(self.head.target.get(bytes)).unwrap_or_default(),
            query: None,
            host,
            original_host: host,
            trusted: false,
            peer: b"192.0.2.1",
            client: b"192.0.2.1",
            secure: false,
            identity: b"",
            port: b"80",
            request_id: b"00112233445566778899aabbccddeeff",
            token: &self.token,
            modifier: &self.modifier,
            to_grpc: false,
        };
        self.written.clear();
        let from = write::Request { bytes, head: &self.head, fields: &self.fields };
        write::request(&mut self.written, from, &onward);
        &self.written
    }
}
