//! The authority and the certificate behind `--listen`.
//!
//! The authority is made once and stays, because every invitation carries it. The server's certificate
//! is made anew at each `up`: addresses change, and a fresh one never runs out unnoticed.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::{DataFolder, ServerError};

/// As long as a data folder may live.
const CA_DAYS: i64 = 20 * 365;

/// As long as one `up` may run without a restart.
const SERVER_DAYS: i64 = 5 * 365;

/// Clocks of other machines may be behind ours by this much.
const SKEW: Duration = Duration::days(1);

const CA_NAME: &str = "wasmjob authority";

/// Makes what is missing: the authority, and a server certificate for these names and addresses.
pub(super) fn ensure(folder: &DataFolder, names: &[String]) -> Result<(), ServerError> {
    let key = ensure_ca(folder)?;
    // The issuer is the name and the key, both the same every time; the certificate itself is not needed.
    let issuer = Issuer::new(ca_params()?, key);
    let server_key = KeyPair::generate().map_err(failed)?;
    let certificate = server_params(names)?
        .signed_by(&server_key, &issuer)
        .map_err(failed)?;
    let (cert_path, key_path) = server_paths(folder);
    folder.write_private(&cert_path, &certificate.pem())?;
    folder.write_private(&key_path, &server_key.serialize_pem())
}

/// The authority's certificate.
pub(super) fn ca_pem(folder: &DataFolder) -> Result<String, ServerError> {
    let path = tls_folder(folder).join("ca.pem");
    fs::read_to_string(&path).map_err(ServerError::files("read", path))
}

/// Certificate and key of the server.
pub(super) fn server_paths(folder: &DataFolder) -> (PathBuf, PathBuf) {
    let tls = tls_folder(folder);
    (tls.join("server.pem"), tls.join("server.key"))
}

fn tls_folder(folder: &DataFolder) -> PathBuf {
    folder.path().join("server/tls")
}

fn ensure_ca(folder: &DataFolder) -> Result<KeyPair, ServerError> {
    let tls = folder.below("server/tls")?;
    let (cert_path, key_path) = (tls.join("ca.pem"), tls.join("ca.key"));
    if cert_path.exists() && key_path.exists() {
        let pem = fs::read_to_string(&key_path).map_err(ServerError::files("read", &key_path))?;
        return KeyPair::from_pem(&pem).map_err(|error| ServerError::Damaged {
            path: key_path,
            reason: error.to_string(),
        });
    }
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = ca_params()?.self_signed(&key).map_err(failed)?;
    // The key first: a certificate without its key would be kept and could never sign.
    folder.write_private(&key_path, &key.serialize_pem())?;
    folder.write_private(&cert_path, &certificate.pem())?;
    Ok(key)
}

fn ca_params() -> Result<CertificateParams, ServerError> {
    let mut params = valid_for(CertificateParams::new(Vec::new()).map_err(failed)?, CA_DAYS);
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    // It signs servers and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server_params(names: &[String]) -> Result<CertificateParams, ServerError> {
    let mut params = valid_for(CertificateParams::new(names).map_err(failed)?, SERVER_DAYS);
    params
        .distinguished_name
        .push(DnType::CommonName, "wasmjob nats-server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn valid_for(mut params: CertificateParams, days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(days);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

#[allow(clippy::needless_pass_by_value)] // the shape `map_err` wants
fn failed(error: rcgen::Error) -> ServerError {
    ServerError::Make {
        what: "a certificate",
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_server_certificate_is_fresh() {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&root.path().join("d")).unwrap();
        let names = ["localhost".to_owned(), "10.0.0.1".to_owned()];
        ensure(&folder, &names).unwrap();
        let (ca, cert) = (
            ca_pem(&folder).unwrap(),
            fs::read(server_paths(&folder).0).unwrap(),
        );
        ensure(&folder, &names).unwrap();
        assert_eq!(ca_pem(&folder).unwrap(), ca);
        assert_ne!(fs::read(server_paths(&folder).0).unwrap(), cert);
    }
}
