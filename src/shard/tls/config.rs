//! What both sides of TLS insist on: TLS 1.2 or later, `http/1.1` where ALPN is spoken, and no way to turn verification
//! off.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::ServerSessionMemoryCache,
};

use crate::base::limits;

/// The one protocol spoken inside TLS.
const HTTP_1_1: &[u8] = b"http/1.1";

/// How to call upstreams: Mozilla's roots, and those of `extra_ca_pem` where a provider has its own. Share one among all
/// cores, or each has its own sessions to resume.
///
/// # Errors
/// A sentence about what is wrong with `extra_ca_pem`.
pub fn client_config(extra_ca_pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(pem) = extra_ca_pem {
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| format!("a CA certificate can't be used: {error}"))?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.resumption = Resumption::in_memory_sessions(limits::TLS_SESSIONS_MAX);
    Ok(Arc::new(config))
}

/// How to be called: one certificate with its chain, and its key. Share one among all cores, or a client that comes back
/// to another core can't resume.
///
/// # Errors
/// A sentence about what is wrong with the certificate or its key.
pub fn server_config(cert_pem: &[u8], key_pem: &[u8]) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "no private key was found: PEM with PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY is wanted, unencrypted"
                .to_owned()
        }
        error => format!("the private key is not PEM: {error}"),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("the certificate and its key can't be used: {error}"))?;
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    // Tickets for those that take them, under keys that change every few hours; the cache is for TLS 1.2 without.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
    config.session_storage = ServerSessionMemoryCache::new(limits::TLS_SESSIONS_MAX);
    // A request in early data can be replayed by anyone who saw it.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

// Passed by hand, because a process-wide default is whatever another crate made it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("no certificate was found: PEM with at least one CERTIFICATE is wanted".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn self_signed() -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (cert.pem(), signing_key.serialize_pem())
    }

    #[track_caller]
    fn check<T>(config: Result<Arc<T>, String>, complaint: &str) {
        match config {
            Ok(_) => assert_eq!(complaint, ""),
            Err(said) => assert!(!complaint.is_empty() && said.contains(complaint), "{said}"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let (cert, key) = self_signed();
        let (_, other_key) = self_signed();
        let (cert, key) = (cert.as_bytes(), key.as_bytes());
        let not_der = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &cert[..cert.len() / 2];

        check(server_config(cert, key), "");
        check(server_config(key, cert), "no certificate was found");
        check(server_config(b"", key), "no certificate was found");
        check(server_config(cut, key), "the certificate is not PEM");
        check(server_config(not_der, key), "can't be used");
        check(server_config(cert, cert), "no private key was found");
        check(server_config(cert, &key[..key.len() / 2]), "the private key is not PEM");
        check(server_config(cert, other_key.as_bytes()), "can't be used");

        check(client_config(None), "");
        check(client_config(Some(cert)), "");
        check(client_config(Some(key)), "no certificate was found");
        check(client_config(Some(cut)), "the certificate is not PEM");
        check(client_config(Some(not_der)), "can't be used");
    }

    #[test]
    fn nothing_is_sent_early_and_one_protocol_is_spoken() {
        let (cert, key) = self_signed();
        let server = server_config(cert.as_bytes(), key.as_bytes()).expect("a configuration");
        let client = client_config(None).expect("a configuration");
        assert_eq!(server.max_early_data_size, 0);
        assert!(!client.enable_early_data);
        assert_eq!(
            (&server.alpn_protocols, &client.alpn_protocols),
            (&vec![HTTP_1_1.to_vec()], &vec![HTTP_1_1.to_vec()])
        );
        assert!(server.ticketer.enabled());
    }
}
