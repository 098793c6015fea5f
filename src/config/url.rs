//! A provider's base URL, taken apart by hand: it decides where keys are sent, so nothing in it is guessed.
//!
//! Accepted is `http[s]://host[:port][/path]` and nothing else: no user, no query, no fragment, no percent-encoding, no
//! address in an unusual spelling. The path is used as it stands, as the OpenAI SDKs do; a URL *without* a path means
//! `/v1`, and a URL that ends in a bare `/` means the root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a provider is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BaseUrl {
    pub(super) tls: bool,
    pub(super) host: Host,
    pub(super) port: u16,
    /// Empty, or begins with `/` and does not end with it.
    pub(super) path: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case.
    Name(String),
    Address(IpAddr),
}

/// What is wrong with a URL and how to put it right; never quotes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: &'static str,
    pub(super) fix: &'static str,
}

const fn wrong(what: &'static str, fix: &'static str) -> Wrong {
    Wrong { what, fix }
}

impl BaseUrl {
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(
                "this URL has a space, a control character or a letter outside ASCII",
                "write the host in its ASCII form (xn--…), without spaces",
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("this URL has no scheme", "begin it with https://"));
        };
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("this is not an http URL", "begin it with https:// (in lower case)")),
        };
        if rest.contains(['?', '#']) {
            return Err(wrong(
                "a base URL has no query and no fragment",
                "end it with the path; a key belongs into `key`",
            ));
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(wrong(
                "a base URL has no user or password",
                "leave them out; a key belongs into `key`",
            ));
        }
        let (host, port) = Self::split(authority)?;
        let host = Host::parse(host)?;
        let port = match port {
            None => default_port(tls),
            Some(digits) => port_number(digits)?,
        };
        let path = match path {
            "" => "/v1".to_owned(),
            path => path_of(path)?,
        };
        Ok(Self { tls, host, port, path })
    }

    /// Host and port, the latter still in digits.
    fn split(authority: &str) -> Result<(&str, Option<&str>), Wrong> {
        let (host, rest) = match authority.strip_prefix('[') {
            Some(inner) => match inner.find(']') {
                Some(end) => authority.split_at(end + 2),
                None => return Err(wrong("this IPv6 address is not closed", "write it as [2001:db8::1]")),
            },
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        match rest.strip_prefix(':') {
            None if rest.is_empty() => Ok((host, None)),
            None => {
                Err(wrong("there is something between the host and the path", "write host, colon and port"))
            }
            Some(port) if port.contains(':') => Err(wrong(
                "this host has several colons",
                "write an IPv6 address in brackets: [2001:db8::1]:443",
            )),
            Some(port) => Ok((host, Some(port))),
        }
    }

    /// The value of the Host field: with the port only where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host = match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(IpAddr::V4(ip)) => ip.to_string(),
            Host::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        if self.port == default_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether both name the same place to send a key to.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.tls == other.tls && self.port == other.port && self.host == other.host
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').unwrap_or(inner);
            let ip: Ipv6Addr = inner.parse().map_err(|_| {
                wrong("this is not an IPv6 address", "write it as [2001:db8::1], without a zone")
            })?;
            // One spelling for one address: the inner one is what is dialled.
            return Self::address(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
        }
        if text.is_empty() {
            return Err(wrong("this URL has no host", "write https://host/v1"));
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
            || last.starts_with("0x")
            || last.starts_with("0X");
        if numeric && !last.is_empty() {
            // Strict: `127.1`, `0x7f.0.0.1`, `017700000001` and other spellings that some resolvers accept are refused.
            let ip: Ipv4Addr = text
                .parse()
                .map_err(|_| wrong("this is not an IPv4 address", "write four decimal numbers: 192.0.2.1"))?;
            return Self::address(IpAddr::V4(ip));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > 253 || !text.split('.').all(label) {
            return Err(wrong(
                "this is not a host name",
                "use letters, digits, `-` and `_` between single dots, without a dot at the end",
            ));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }

    fn address(ip: IpAddr) -> Result<Self, Wrong> {
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(wrong("nothing can be reached under this address", "this host itself is 127.0.0.1"));
        }
        Ok(Self::Address(ip))
    }

    /// Whether a connection to it cannot leave this machine (RFC 6761 §6.3 for the name).
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            Self::Address(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn port_number(digits: &str) -> Result<u16, Wrong> {
    let plain =
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    let number = if plain { digits.parse().ok() } else { None };
    number.ok_or(wrong("this is not a port", "write a number from 1 to 65535 after the colon"))
}

/// What a pasted URL ends in when it names an endpoint and not the base of all of them.
const ENDPOINTS: [&str; 6] =
    ["/completions", "/embeddings", "/responses", "/models", "/messages", "/moderations"];

fn path_of(path: &str) -> Result<String, Wrong> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(String::new());
    }
    let segment = |segment: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
    };
    if !path.split('/').skip(1).all(segment) {
        return Err(wrong(
            "this path has an empty part, a `.` or `..`, or a character that is not allowed",
            "write it plainly, such as /v1 or /openai/v1, without percent-encoding",
        ));
    }
    if ENDPOINTS.iter().any(|endpoint| path.ends_with(endpoint)) {
        return Err(wrong(
            "this is the URL of one endpoint, not the base of all of them",
            "end it before the endpoint: https://host/v1, not https://host/v1/chat/completions",
        ));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, authority: &str, port: u16, path: &str) {
        let url = BaseUrl::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        assert_eq!(
            (url.authority().as_str(), url.port, url.path.as_str()),
            (authority, port, path),
            "{text}"
        );
        assert_eq!(url.tls, text.starts_with("https"));
        assert_eq!(
            BaseUrl::parse(&format!(
                "http{}://{}{}/",
                if url.tls { "s" } else { "" },
                url.authority(),
                url.path
            )),
            Ok(url)
        );
    }

    #[track_caller]
    fn check_wrong(text: &str, what: &str) {
        assert_eq!(BaseUrl::parse(text).map_err(|wrong| wrong.what), Err(what), "{text}");
    }

    #[test]
    fn good_urls_come_apart() {
        check("https://api.openai.com/v1", "api.openai.com", 443, "/v1");
        check("https://api.openai.com/v1/", "api.openai.com", 443, "/v1");
        check("https://API.OpenAI.com:443/v1", "api.openai.com", 443, "/v1");
        check("https://api.deepseek.com", "api.deepseek.com", 443, "/v1");
        check("https://api.perplexity.ai/", "api.perplexity.ai", 443, "");
        check("http://127.0.0.1:9000/v1", "127.0.0.1:9000", 9000, "/v1");
        check("http://localhost", "localhost", 80, "/v1");
        check("http://localhost:443/v1", "localhost:443", 443, "/v1");
        check("https://h:80/v1", "h:80", 80, "/v1");
        check("http://[::1]:8080/v1", "[::1]:8080", 8080, "/v1");
        check("https://[2001:DB8::1]", "[2001:db8::1]", 443, "/v1");
        check("http://[::ffff:127.0.0.1]:1/x", "127.0.0.1:1", 1, "/x");
        check("https://a_b.c-d.example/openai/v1", "a_b.c-d.example", 443, "/openai/v1");
        check("https://open.bigmodel.cn/api/paas/v4", "open.bigmodel.cn", 443, "/api/paas/v4");
        check("https://1.example", "1.example", 443, "/v1");
    }

    #[test]
    fn everything_else_is_refused() {
        check_wrong("", "this URL has no scheme");
        check_wrong("api.openai.com/v1", "this URL has no scheme");
        check_wrong("ftp://host", "this is not an http URL");
        check_wrong("HTTPS://host", "this is not an http URL");
        check_wrong("https://", "this URL has no host");
        check_wrong("https:///v1", "this URL has no host");
        check_wrong("https://:443", "this URL has no host");
        check_wrong("https://user@host", "a base URL has no user or password");
        check_wrong("https://user:pw@host/v1", "a base URL has no user or password");
        check_wrong("https://host?x=1", "a base URL has no query and no fragment");
        check_wrong("https://evil.example#.openai.azure.com/v1", "a base URL has no query and no fragment");
        for text in ["https://ho st", "https://host/\r\nx", "https://höst", "https://host/ä", "https://h\0"]
        {
            check_wrong(text, "this URL has a space, a control character or a letter outside ASCII");
        }
        for text in [
            "https://127.1",
            "https://0x7f.0.0.1",
            "https://2130706433",
            "https://0177.0.0.1",
            "https://a.0x1",
        ] {
            check_wrong(text, "this is not an IPv4 address");
        }
        for text in ["https://[::1%eth0]", "https://[127.0.0.1]", "https://[]"] {
            check_wrong(text, "this is not an IPv6 address");
        }
        check_wrong("https://[::1", "this IPv6 address is not closed");
        check_wrong("https://[::1]x", "there is something between the host and the path");
        check_wrong("https://::1/", "this host has several colons");
        for text in [
            "http://0.0.0.0:80",
            "http://[::]",
            "http://224.0.0.1",
            "http://255.255.255.255",
            "http://[ff02::1]",
        ] {
            check_wrong(text, "nothing can be reached under this address");
        }
        let names = [
            "https://host.",
            "https://.host",
            "https://a..b",
            "https://-a",
            "https://a-.b",
            "https://a%2fb",
            "https://a\\b",
        ];
        for text in names {
            check_wrong(text, "this is not a host name");
        }
        check_wrong(&format!("https://{}", "a".repeat(64)), "this is not a host name");
        check_wrong(&format!("https://{}", ["a"; 128].join(".")), "this is not a host name");
        for text in
            ["https://h:", "https://h:0", "https://h:080", "https://h:65536", "https://h:+1", "https://h:x"]
        {
            check_wrong(text, "this is not a port");
        }
        for text in [
            "https://h//v1",
            "https://h/v1//",
            "https://h/./v1",
            "https://h/../v1",
            "https://h/%2e",
            "https://h/a|b",
        ] {
            check_wrong(
                text,
                "this path has an empty part, a `.` or `..`, or a character that is not allowed",
            );
        }
        check_wrong(
            "https://h/v1/chat/completions",
            "this is the URL of one endpoint, not the base of all of them",
        );
        check_wrong(
            "https://h/v1/embeddings/",
            "this is the URL of one endpoint, not the base of all of them",
        );
    }
}
