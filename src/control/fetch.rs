//! Small documents of providers, fetched over HTTP by control: no redirect, no proxy, no address that the provider may
//! not be at, bounded in time and bytes.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use ureq::{
    Agent, Body, Error,
    config::Config,
    http,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{
            Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, TcpConnector, Transport,
            TransportAdapter,
        },
    },
};

use crate::{
    base::limits::{MODELS_BYTES_MAX, MODELS_FETCH_TIME},
    bridge::addresses::Resolved,
    control::models::{Fetch, ListAddress},
};

/// What is known of a host's addresses, after waiting that long if nothing is: the resolver's
/// [`wait_for`](crate::control::resolver::Resolver::wait_for).
pub type FindAddresses = Arc<dyn Fn(&str, Duration) -> Resolved + Send + Sync>;

/// Fetches with ureq, through connections that are made as the cores make theirs.
pub struct HttpFetch {
    find: FindAddresses,
    is_public: fn(IpAddr) -> bool,
    time: Duration,
}

impl HttpFetch {
    /// `is_public` is the rule that the cores dial by.
    pub fn new(find: FindAddresses, is_public: fn(IpAddr) -> bool) -> Self {
        Self { find, is_public, time: MODELS_FETCH_TIME }
    }

    /// The status of a GET's answer, whatever its body says.
    ///
    /// # Errors
    /// There was none within `time`.
    pub fn status(&self, list: &ListAddress, time: Duration) -> Result<u16, String> {
        Ok(self.get(list, time)?.status().as_u16())
    }

    fn get(&self, list: &ListAddress, time: Duration) -> Result<http::Response<Body>, String> {
        let mut request = self.agent(list, time).get(&list.url).header("accept", "application/json");
        for (name, value) in &list.headers {
            request = request.header(name, value);
        }
        if let Some((name, secret)) = &list.credential {
            let value = http::HeaderValue::from_bytes(secret.expose());
            let mut value = value.map_err(|_| "the credential cannot stand in a header".to_owned())?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        request.call().map_err(|error| error.to_string())
    }

    fn agent(&self, list: &ListAddress, time: Duration) -> Agent {
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(time))
            .user_agent(concat!("ringway/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(0)
            .build();
        let permitted =
            Permitted { find: Arc::clone(&self.find), is_public: self.is_public, private: list.private };
        let secured = TcpConnector::default().chain(Secured(list.tls.clone()));
        Agent::with_parts(config, secured, permitted)
    }
}

impl Fetch for HttpFetch {
    fn fetch(&self, list: &ListAddress) -> Result<Vec<u8>, String> {
        let mut response = self.get(list, self.time)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let body = response.body_mut().with_config().limit(MODELS_BYTES_MAX as u64).read_to_vec();
        body.map_err(|error| error.to_string())
    }
}

/// Gives ureq only addresses that the provider may be at. It connects to these and asks nobody else.
struct Permitted {
    find: FindAddresses,
    is_public: fn(IpAddr) -> bool,
    private: bool,
}

impl fmt::Debug for Permitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permitted").field("private", &self.private).finish_non_exhaustive()
    }
}

impl Resolver for Permitted {
    fn resolve(
        &self,
        uri: &http::Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let port_of_scheme = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(port_of_scheme);
        let known = match bare(host).parse::<IpAddr>() {
            Ok(literal) => Ok([literal].into()),
            Err(_) => (self.find)(host, *timeout.after),
        };
        let known = known.map_err(|why| Error::Io(io::Error::other(&*why)))?;
        let mut permitted = self.empty();
        // ureq's list has sixteen places.
        for ip in known.iter().filter(|ip| self.private || (self.is_public)(**ip)).take(16) {
            permitted.push(SocketAddr::new(*ip, port));
        }
        if permitted.is_empty() {
            let why = "only private addresses, which this provider may not be at";
            return Err(Error::Io(io::Error::other(why)));
        }
        Ok(permitted)
    }
}

/// Puts TLS on a connection, with the provider's own rules of verification: ureq's know one set of roots at a time.
pub(super) struct Secured(pub(super) Option<Arc<ClientConfig>>);

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secured").field(&self.0.is_some()).finish()
    }
}

impl<In: Transport> Connector<In> for Secured {
    type Out = Either<In, SecuredTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(plain) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(plain)));
        }
        let Some(config) = &self.0 else { return Err(Error::Tls("https without rules of verification")) };
        let host = bare(details.uri.host().ok_or(Error::HostNotFound)?).to_owned();
        let name = ServerName::try_from(host).map_err(|_| Error::Tls("no certificate can name this host"))?;
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let plain: Box<dyn Transport> = Box::new(plain);
        let mut socket = TransportAdapter::new(plain, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(SecuredTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

pub(super) struct SecuredTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for SecuredTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecuredTransport").finish_non_exhaustive()
    }
}

impl Transport for SecuredTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output();
        // ureq asks for no more than it has put there.
        Ok(self.stream.write_all(output.get(..amount).unwrap_or_default())?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// A host as URLs write it, without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use rustls::{RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};

    use super::*;
    use crate::base::secret::Secret;

    /// A provider for one request: gives the answer and returns the request's head.
    fn provider(answer: Vec<u8>) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let url = format!("http://provider.test:{}/v1/models", listener.local_addr().expect("bound").port());
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut head = String::new();
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                head.push_str(&line);
                head.push('\n');
            }
            // The client may have had enough before the end.
            let _ = (&stream).write_all(&answer);
            head
        });
        (url, thread)
    }

    fn http(time: Duration) -> HttpFetch {
        let find: FindAddresses = Arc::new(|host, _| match host {
            "provider.test" => Ok([IpAddr::from(Ipv4Addr::LOCALHOST)].into()),
            _ => Err("no such name".into()),
        });
        HttpFetch { time, ..HttpFetch::new(find, |ip| !ip.is_loopback()) }
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    fn list(url: &str) -> ListAddress {
        ListAddress {
            url: url.to_owned(),
            credential: Some(("authorization".to_owned(), Secret::new(b"Bearer sk-1".to_vec()))),
            headers: vec![("x-extra".to_owned(), "yes".to_owned())],
            private: true,
            tls: None,
        }
    }

    fn trusting(root: Option<Vec<u8>>) -> Option<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(root.map(CertificateDer::from));
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions");
        Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    #[track_caller]
    fn check_fetch(answer: &[u8], expect: Result<&[u8], &str>) {
        let (url, provider) = provider(answer.to_vec());
        let got = http(PATIENCE).fetch(&list(&url));
        provider.join().expect("it answered");
        match (&got, expect) {
            (Ok(body), Ok(expect)) => assert_eq!(body, expect),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error:?} lacks {part:?}"),
            _ => panic!("{got:?} where {expect:?}"),
        }
    }

    #[test]
    fn only_a_whole_answer_of_200_within_bounds_is_taken() {
        check_fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", Ok(b"[]"));
        check_fetch(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", Err("status 401"));
        let redirect =
            b"HTTP/1.1 302 Found\r\nlocation: http://provider.test:1/\r\ncontent-length: 0\r\n\r\n";
        check_fetch(redirect, Err("status 302"));
        check_fetch(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[]", Err(""));
        let mut big = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        big.resize(MODELS_BYTES_MAX + 4096, b' ');
        check_fetch(&big, Err("limit"));
    }

    #[test]
    fn the_request_carries_the_credential_and_what_the_provider_wants() {
        let (url, provider) = provider(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_vec());
        http(PATIENCE).fetch(&list(&url)).expect("a list");
        let head = provider.join().expect("it answered").to_ascii_lowercase();
        assert!(head.starts_with("get /v1/models http/1.1\n"), "{head}");
        for line in ["authorization: bearer sk-1\n", "x-extra: yes\n", "host: provider.test:"] {
            assert!(head.contains(line), "{head:?} lacks {line:?}");
        }
    }

    #[track_caller]
    fn check_refused(fetch: &HttpFetch, list: &ListAddress, part: &str) {
        let error = fetch.fetch(list).expect_err("refused");
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }

    #[test]
    fn nothing_is_connected_to_that_may_not_be() {
        // Nobody accepts on this one: a fetch that connected would wait for its answer.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let public =
            ListAddress { private: false, ..list(&format!("http://provider.test:{port}/v1/models")) };
        check_refused(&http(PATIENCE), &public, "only private addresses");
        listener.set_nonblocking(true).expect("a socket");
        assert_eq!(listener.accept().map_err(|error| error.kind()).err(), Some(io::ErrorKind::WouldBlock));

        let literal = ListAddress { private: false, ..list(&format!("http://127.0.0.1:{port}/v1/models")) };
        check_refused(&http(PATIENCE), &literal, "only private addresses");
        check_refused(&http(PATIENCE), &list("http://elsewhere.test/v1/models"), "no such name");
        let broken = (String::from("authorization"), Secret::new(b"Bearer \r\nx: y".to_vec()));
        let broken = ListAddress { credential: Some(broken), ..list("http://provider.test/") };
        check_refused(&http(PATIENCE), &broken, "credential");
    }

    /// A provider over TLS for one connection; returns its certificate.
    fn provider_over_tls() -> (String, Vec<u8>, thread::JoinHandle<io::Result<()>>) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["provider.test".to_owned()]).expect("a certificate");
        let der = cert.der().to_vec();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key.into())
            })
            .expect("a server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let url = format!("https://provider.test:{}/v1/models", listener.local_addr().expect("bound").port());
        let thread = thread::spawn(move || {
            let (socket, _) = listener.accept()?;
            let connection = rustls::ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
            let mut stream = BufReader::new(StreamOwned::new(connection, socket));
            let mut line = String::new();
            while stream.read_line(&mut line)? > 2 {
                line.clear();
            }
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
        });
        (url, der, thread)
    }

    #[test]
    fn a_certificate_is_verified_against_the_roots_that_were_given() {
        let (url, der, provider) = provider_over_tls();
        let known = ListAddress { tls: trusting(Some(der)), ..list(&url) };
        assert_eq!(http(PATIENCE).fetch(&known), Ok(b"[]".to_vec()));
        provider.join().expect("no panic").expect("it answered");

        let (url, _, provider) = provider_over_tls();
        let unknown = ListAddress { tls: trusting(None), ..list(&url) };
        check_refused(&http(PATIENCE), &unknown, "certificate");
        assert!(provider.join().expect("no panic").is_err(), "no request was sent");

        let (url, _, provider) = provider_over_tls();
        check_refused(&http(PATIENCE), &list(&url), "https without");
        assert!(provider.join().expect("no panic").is_err(), "nothing was sent in the clear");
    }

    #[test]
    fn a_provider_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let url = format!("http://provider.test:{}/v1/models", listener.local_addr().expect("bound").port());
        check_refused(&http(Duration::from_millis(50)), &list(&url), "timeout");
    }
}
