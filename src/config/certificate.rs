//! Certificates and private keys that a configuration names: read and parsed when it is checked, so that a wrong file
//! is a complaint and not a listener that fails.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{raw::Text, snapshot::ServerTls};
use crate::base::secret::Secret;

/// A listener's certificate chain and key, both there and belonging together.
pub(super) fn server(cert: &Text<'_>, key: &Text<'_>, around: &dyn super::Surroundings) -> Option<ServerTls> {
    // Both are read before either is judged: two missing files are two complaints.
    let certificates_pem = read(cert, around);
    let key_pem = read(key, around).map(Secret::new);
    let (certificates_pem, key_pem) = (certificates_pem?, key_pem?);
    let chain = certificates(cert, &certificates_pem);
    let private = PrivateKeyDer::from_pem_slice(key_pem.expose()).ok();
    if private.is_none() {
        key.complain(
            "this file holds no private key",
            "it has to be PEM: -----BEGIN PRIVATE KEY-----, unencrypted",
        );
    }
    let (chain, private) = (chain?, private?);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Err(error) = CertifiedKey::from_der(chain, private, &provider) {
        let (what, fix) = match error {
            rustls::Error::InconsistentKeys(_) => (
                "this key does not belong to the certificate".to_owned(),
                "name the key that the certificate was issued for; the certificate itself comes first in its file",
            ),
            error => (format!("certificate and key cannot be used: {error}"), "issue them again"),
        };
        key.complain(what, fix);
        return None;
    }
    Some(ServerTls { certificates_pem, key_pem })
}

/// A bundle of certificates to trust.
pub(super) fn authorities(file: &Text<'_>, around: &dyn super::Surroundings) -> Option<Vec<u8>> {
    let pem = read(file, around)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, &pem)? {
        if let Err(error) = roots.add(certificate) {
            file.complain(
                format!("a certificate in this file cannot be trusted: {error}"),
                "name a CA certificate",
            );
            return None;
        }
    }
    Some(pem)
}

fn certificates(file: &Text<'_>, pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    if chain.is_none() {
        file.complain("this file holds no certificate", "it has to be PEM: -----BEGIN CERTIFICATE-----");
    }
    chain
}

/// The file that a setting names, whatever is in it.
pub(super) fn read(file: &Text<'_>, around: &dyn super::Surroundings) -> Option<Vec<u8>> {
    let result = around.read(Path::new(file.value.as_str()));
    let complain = |error: std::io::Error| {
        file.complain(
            format!("this file cannot be read: {error}"),
            "see that it exists and that the user ringway runs as may read it",
        );
    };
    result.map_err(complain).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Fake, compile};

    #[test]
    fn certificates_are_read_and_judged() {
        let issued = rcgen::generate_simple_self_signed(["gateway.test".to_owned()]).expect("certificate");
        let other = rcgen::generate_simple_self_signed(["other.test".to_owned()]).expect("certificate");
        let leak = |text: String| -> &'static [u8] { text.into_bytes().leak() };
        let around = Fake {
            files: vec![
                ("/cert", leak(issued.cert.pem())),
                ("/key", leak(issued.signing_key.serialize_pem())),
                ("/other", leak(other.signing_key.serialize_pem())),
                ("/not-pem", b"hello"),
            ],
            ..Fake::default()
        };
        let tls = |cert: &str, key: &str| {
            let text = format!(
                "[server]\ntls_listen = \"127.0.0.1:1\"\n[server.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
             [[provider]]\nname = \"a\"\nauth = \"none\"\nbase_url = \"https://x.test\"\nca_file = \"{cert}\"\n"
            );
            compile(&text, "t.toml", &around)
        };
        let good = tls("/cert", "/key").unwrap_or_else(|complaints| panic!("{complaints}")).snapshot;
        assert!(good.server.listen.is_empty() && good.server.tls_listen.len() == 1);
        assert!(
            good.server.tls.is_some_and(|tls| tls.certificates_pem.starts_with(b"-----BEGIN CERTIFICATE"))
        );
        assert!(good.providers[0].ca.is_some());
        let whats = |cert, key| -> Vec<String> {
            tls(cert, key)
                .expect_err("wrong")
                .0
                .into_iter()
                .map(|c| format!("{}: {}", c.path, c.what))
                .collect()
        };
        assert_eq!(whats("/cert", "/other"), ["server.tls.key: this key does not belong to the certificate"]);
        assert_eq!(
            whats("/not-pem", "/not-pem"),
            [
                "server.tls.cert: this file holds no certificate",
                "server.tls.key: this file holds no private key",
                "provider[0].ca_file: this file holds no certificate",
            ]
        );
        assert_eq!(
            whats("/none", "/key"),
            [
                "server.tls.cert: this file cannot be read: entity not found",
                "provider[0].ca_file: this file cannot be read: entity not found",
            ]
        );
    }
}
