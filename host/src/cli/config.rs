//! `wasmjob config`: what is in force and where it comes from.

use wasmjob_runtime::limits::{CHOOSABLE, OF_NODE};

use super::{CliError, Exit, Global, render};
use crate::{config::Row, limit_values};

/// Prints the configuration.
pub(crate) fn config(global: &Global) -> Result<Exit, CliError> {
    let config = global.load(Vec::new())?;
    if global.json {
        render::json(&config.to_json())?;
        return Ok(Exit::Done);
    }
    let (defaults, maximum) = limit_values::limits(&config)?;
    let of_node = limit_values::of_node(&config)?;
    let mut rows =
        vec![vec!["data folder".into(), config.data.display().to_string(), "WASMJOB_DATA or default".into()]];
    let known = |row: &Row| !row.key.starts_with("limits.");
    rows.extend(
        config.rows().into_iter().filter(known).map(|row| vec![row.key, row.value.unwrap_or("-".into()), row.source]),
    );
    for (section, limits) in [("default", &defaults), ("max", &maximum)] {
        for info in &CHOOSABLE {
            let key = format!("limits.{section}.{}", info.name);
            let value = info.show(limits.get(info.name).unwrap_or_default());
            let source = config.source(&key).to_string();
            rows.push(vec![key, value, source]);
        }
    }
    for info in &OF_NODE {
        let key = format!("limits.max.{}", info.name);
        let value = info.show(of_node.get(info.name).unwrap_or_default());
        let source = config.source(&key).to_string();
        rows.push(vec![key, value, source]);
    }
    render::table(&["key", "value", "from"], &rows)?;
    Ok(Exit::Done)
}
