//! Placeholder until merged.
use super::GrantError;
use crate::wire::Grant;
use wasmjob_runtime::grants::Target;

pub fn parse_target(text: &str, _port: bool) -> Result<String, String> {
    Ok(text.into())
}

pub(super) async fn resolve(grant: &Grant, _: &str, _: &[String], _: bool) -> Result<Target, GrantError> {
    Err(GrantError::NotOffered { grant: grant.to_string(), reason: "pending".into() })
}
