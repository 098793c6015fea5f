//! The question: what a client would send, written as the head and the body of a request and read by the gateway's own
//! readers, so that nothing is taken here that would be refused there.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    base::{limits::BYTES_PER_TOKEN_ESTIMATE, now::Now},
    config::Snapshot,
    policy::{
        address,
        admit::Want,
        credential::{Presented, presented},
    },
    wire::{
        http1::head::{HeadLimits, RequestHead, parse_request},
        metadata,
        openai::endpoint::{Body, Endpoint},
    },
};

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) model: &'a str,
    pub(super) endpoint: Endpoint,
    pub(super) stream: bool,
    pub(super) user: Option<&'a str>,
    pub(super) n: Option<u32>,
    pub(super) max_tokens: Option<u64>,
    pub(super) metadata: Option<&'a str>,
    /// Each `name: value`.
    pub(super) fields: &'a [String],
    pub(super) address: IpAddr,
    pub(super) chance: u64,
}

/// The question makes no request: a sentence for whoever asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclear(pub(super) String);

impl Asked<'_> {
    /// The body, in JSON whatever the endpoint reads: what is looked at of it is the same.
    pub(super) fn body(&self) -> String {
        let mut body = json!({ "model": self.model, "stream": self.stream });
        let others = [
            ("user", self.user.map(Value::from)),
            ("n", self.counts(self.n).map(Value::from)),
            ("max_tokens", self.counts(self.max_tokens).map(Value::from)),
        ];
        for (name, value) in others {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body.to_string()
    }

    /// A number of the body; of forms, none is read.
    fn counts<T>(&self, number: Option<T>) -> Option<T> {
        number.filter(|_| self.endpoint.body() == Body::Json)
    }

    pub(super) fn head(&self, body_bytes: usize) -> Result<Vec<u8>, Unclear> {
        let media_type = match self.endpoint.body() {
            Body::Multipart => "multipart/form-data; boundary=x",
            Body::Json | Body::None => "application/json",
        };
        let mut head = format!(
            "POST /v1{} HTTP/1.1\r\nhost: ringway\r\ncontent-type: {media_type}\r\ncontent-length: {body_bytes}\r\n",
            self.endpoint.path()
        );
        let metadata = self.metadata.map(|metadata| format!("{}: {metadata}", metadata::FIELDS[0].text()));
        for field in self.fields.iter().chain(&metadata) {
            let shown = || field.split(':').next().unwrap_or_default().escape_debug().to_string();
            if field.contains(['\r', '\n']) {
                return Err(Unclear(format!("`{}` holds the end of a line", shown())));
            }
            if field.to_ascii_lowercase().starts_with("content-type:") {
                return Err(Unclear("the content-type follows from the endpoint: leave it out".to_owned()));
            }
            head.push_str(field);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        Ok(head.into())
    }

    pub(super) fn want<'w>(
        &'w self,
        head: &'w RequestHead,
        bytes: &'w [u8],
        body_bytes: usize,
        unix_ms: u64,
    ) -> Want<'w> {
        Want {
            endpoint: self.endpoint,
            model: self.model,
            stream: self.stream,
            n: self.counts(self.n),
            max_tokens: self.counts(self.max_tokens),
            prompt_tokens: body_bytes as u64 / BYTES_PER_TOKEN_ESTIMATE,
            head,
            bytes,
            now: Now(0),
            unix_ms,
        }
    }
}

/// Reads the head as the gateway would, and sees to it that nothing is in it which arguments should not hold.
pub(super) fn read(bytes: &[u8], snapshot: &Snapshot) -> Result<RequestHead, Unclear> {
    let bounds =
        HeadLimits { bytes_max: snapshot.limits.head_bytes, fields_max: snapshot.limits.head_fields };
    let head = match parse_request(bytes, bounds) {
        Ok(Some(head)) if head.bytes == bytes.len() => head,
        Ok(_) => return Err(Unclear("the header fields are not whole".to_owned())),
        Err(bad) => return Err(Unclear(format!("the header fields make no head: {}", bad.reason()))),
    };
    if presented(&head.fields, bytes) != Presented::None {
        let why = "a gateway token does not belong into an argument: name its caller with --caller";
        return Err(Unclear(why.to_owned()));
    }
    let sent = metadata::FIELDS.into_iter().filter(|known| head.known(bytes, *known).is_some()).count();
    if sent > 1 || metadata::FIELDS.into_iter().any(|known| head.only(bytes, known).is_err()) {
        return Err(Unclear("the routing metadata is given twice".to_owned()));
    }
    Ok(head)
}

/// Where the client is; else why that is not believed.
pub(super) fn client(
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    head: &RequestHead,
    bytes: &[u8],
) -> Result<IpAddr, &'static str> {
    let fields = head.fields.iter().filter(|f| f.name.of(bytes).eq_ignore_ascii_case(b"x-forwarded-for"));
    let forwarded = fields.map(|field| field.value.of(bytes));
    address::client(asked.address, forwarded, &snapshot.access.trusted_proxies)
        .map_err(|_| "X-Forwarded-For cannot be read")
}
