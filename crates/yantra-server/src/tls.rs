//! TLS: a certificate and its key from PEM files, by `rustls` (versions 1.2 and 1.3, with ring's cryptography).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::watched::Source;

/// A certificate and a key can not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read or is no PEM.
    #[error("{setting} is '{}', which can not be used: {message}; {expected} expected", path.display())]
    File {
        /// `tls_cert` or `tls_key`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// They do not belong together, or are of a kind that is not supported.
    #[error("tls_cert '{}' and tls_key '{}' can not be used together: {message}", cert.display(), key.display())]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        message: String,
    },
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate, followed by those that vouch for it.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Source for TlsFiles {
    type Value = rustls::ServerConfig;
    type Error = TlsError;
    const NAME: &'static str = "certificate and its key";

    fn files(&self) -> Vec<&Path> {
        vec![&self.cert, &self.key]
    }

    fn read(&self, _: Option<&rustls::ServerConfig>) -> Result<rustls::ServerConfig, TlsError> {
        let expected = "a certificate in PEM, followed by those that vouch for it,";
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect)
            .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(|error| broken("tls_cert", &self.cert, error, expected))?;
        let expected = "a private key in PEM without a password (PKCS #8, PKCS #1 or SEC 1)";
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| broken("tls_key", &self.key, error, expected))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| TlsError::Pair {
                cert: self.cert.clone(),
                key: self.key.clone(),
                message: error.to_string(),
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn broken(setting: &'static str, path: &Path, error: pem::Error, expected: &'static str) -> TlsError {
    let message = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it holds none".to_owned(),
        error => error.to_string(),
    };
    TlsError::File { setting, path: path.to_owned(), message, expected }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_can_not_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (pair(), pair());
        let cert = file("cert.pem", &one.cert.pem());
        let key = file("key.pem", &one.signing_key.serialize_pem());
        TlsFiles { cert: cert.clone(), key: key.clone() }.read(None).unwrap();

        let check = |cert: &Path, key: &Path, parts: &[&str]| {
            let error = TlsFiles { cert: cert.to_owned(), key: key.to_owned() }.read(None).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        let missing = directory.path().join("missing.pem");
        let empty = file("empty.pem", "");
        let cut = file("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
        let stranger = file("stranger.pem", &other.signing_key.serialize_pem());
        check(&missing, &key, &["tls_cert is '", "missing.pem'", "No such file", "a certificate in PEM"]);
        check(&cert, &missing, &["tls_key is '", "missing.pem'", "a private key in PEM"]);
        check(&empty, &key, &["empty.pem'", "it holds none"]);
        check(&cut, &key, &["cut.pem'", "a certificate in PEM"]);
        check(&cert, &cert, &["tls_key is '", "it holds none"]);
        check(&cert, &stranger, &["can not be used together", "stranger.pem"]);
    }
}
