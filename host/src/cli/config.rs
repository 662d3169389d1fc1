//! `wasmjob config`: what is in force and where it comes from.

use super::{CliError, Exit, Global, render};

/// Prints the configuration.
pub(crate) fn config(global: &Global) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    if global.json {
        render::json(&config.to_json())?;
        return Ok(Exit::Done);
    }
    let rows = config.rows().into_iter().map(|row| vec![row.key, row.value.unwrap_or("-".into()), row.source]);
    render::table(&["key", "value", "from"], rows.collect())?;
    Ok(Exit::Done)
}
