//! Limits as people write them: `--limit memory=64MiB` and the `[limits]` of the configuration.

use std::collections::BTreeMap;

use wasmjob_runtime::{
    Limits, NodeLimits,
    limits::{CHOOSABLE, LimitInfo, OF_NODE, Unit, not_choosable},
};

use crate::{
    config::{self, Config},
    units::{Size, Span},
    wire::LimitTable,
};

/// A limit that was written wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitConfigError {
    /// No limit has this name.
    #[error("{}", not_choosable(name))]
    Unknown {
        /// The name.
        name: String,
    },
    /// The value cannot be read.
    #[error("the limit {name} cannot be read: {reason}")]
    Value {
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A limit of the configuration.
    #[error("{key} ({from}): {error}")]
    Key {
        /// The key.
        key: String,
        /// Where its value is from.
        from: String,
        /// What is wrong.
        error: Box<LimitConfigError>,
    },
    /// The operator's own maximum is below the operator's own default, or beyond what can be enforced.
    #[error("limits.{section}.{name} is {given}, above the {allowed} that is possible")]
    AboveMaximum {
        /// `default` or `max`.
        section: &'static str,
        /// The name.
        name: &'static str,
        /// As written, with its unit.
        given: String,
        /// What is possible, with its unit.
        allowed: String,
    },
}

/// The defaults and the maximum of the configuration.
pub fn limits(config: &Config) -> Result<(Limits, Limits), LimitConfigError> {
    in_force(&config.limits).map_err(|(key, error)| match key {
        Some(key) => LimitConfigError::Key { from: config.source(&key).to_string(), key, error: Box::new(error) },
        None => error,
    })
}

/// What the configuration sets for the node as a whole.
pub fn of_node(config: &Config) -> Result<NodeLimits, LimitConfigError> {
    let mut limits = NodeLimits::default();
    for info in &OF_NODE {
        let Some(value) = config.limits.max.get(info.name) else { continue };
        let key = format!("limits.max.{}", info.name);
        let from = config.source(&key).to_string();
        let value = read(info, value).map_err(|error| LimitConfigError::Key { key, from, error: Box::new(error) })?;
        if value > info.ceiling {
            let (given, allowed) = (info.show(value), info.show(info.ceiling));
            return Err(LimitConfigError::AboveMaximum { section: "max", name: info.name, given, allowed });
        }
        limits.set(info.name, value);
    }
    Ok(limits)
}

/// An error with the key it is about.
type KeyError = (Option<String>, LimitConfigError);

fn in_force(config: &config::Limits) -> Result<(Limits, Limits), KeyError> {
    let maximum = over(Limits::maximum_default(), "max", &config.max)?;
    for info in &CHOOSABLE {
        if let Some(given) = maximum.get(info.name).filter(|given| *given > info.ceiling) {
            let (given, allowed) = (info.show(given), info.show(info.ceiling));
            return Err((None, LimitConfigError::AboveMaximum { section: "max", name: info.name, given, allowed }));
        }
    }
    // A maximum below the built-in default lowers the default with it; one that was written is checked.
    let mut defaults = Limits::default();
    for info in &CHOOSABLE {
        let lower = defaults.get(info.name).unwrap_or(0).min(maximum.get(info.name).unwrap_or(u64::MAX));
        defaults.set(info.name, lower);
    }
    let defaults = over(defaults, "default", &config.default)?;
    match defaults.first_above(&maximum) {
        None => Ok((defaults, maximum)),
        Some((info, given, allowed)) => {
            let (given, allowed) = (info.show(given), info.show(allowed));
            Err((None, LimitConfigError::AboveMaximum { section: "default", name: info.name, given, allowed }))
        }
    }
}

fn over(mut limits: Limits, section: &str, table: &BTreeMap<String, String>) -> Result<Limits, KeyError> {
    let of_node = |name: &String| section == "max" && OF_NODE.iter().any(|info| info.name == name);
    for (name, value) in table.iter().filter(|(name, _)| !of_node(name)) {
        let (_, value) = parse(name, value).map_err(|error| (Some(format!("limits.{section}.{name}")), error))?;
        limits.set(name, value);
    }
    Ok(limits)
}

/// Limits from the `NAME=VALUE` of a command line.
pub fn table(pairs: &[(String, String)]) -> Result<LimitTable, LimitConfigError> {
    let mut table = LimitTable::default();
    for (name, value) in pairs {
        let (info, value) = parse(name, value)?;
        table.0.insert(info.name.into(), value);
    }
    Ok(table)
}

fn parse(name: &str, value: &str) -> Result<(&'static LimitInfo, u64), LimitConfigError> {
    let info = CHOOSABLE.iter().find(|info| info.name == name);
    let info = info.ok_or_else(|| LimitConfigError::Unknown { name: name.to_owned() })?;
    Ok((info, read(info, value)?))
}

fn read(info: &LimitInfo, value: &str) -> Result<u64, LimitConfigError> {
    let read = match info.unit {
        Unit::Bytes => value.parse().map(|Size(bytes)| bytes).map_err(|error| error.to_string()),
        Unit::Millis => value
            .parse()
            .map(|Span(time)| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            .map_err(|error| error.to_string()),
        Unit::Number => parse_number(value),
    };
    let wrong = |reason| LimitConfigError::Value { name: info.name.to_owned(), reason };
    match read.map_err(wrong)? {
        0 => Err(wrong("it must be more than 0".into())),
        value => Ok(value),
    }
}

fn parse_number(value: &str) -> Result<u64, String> {
    let wanted = || format!("`{value}` is not a number like 1000000 or 1e9");
    if let Ok(number) = value.parse() {
        return Ok(number);
    }
    let number: f64 = value.parse().map_err(|_| wanted())?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = number as u64;
    if (1.0..9e18).contains(&number) && number.fract() == 0.0 { Ok(whole) } else { Err(wanted()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(default: &[(&str, &str)], max: &[(&str, &str)]) -> config::Limits {
        let table = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config::Limits { default: table(default), max: table(max) }
    }

    #[test]
    fn values_are_read_with_their_units() {
        let (defaults, maximum) =
            in_force(&config(&[("fuel", "1e9"), ("wall", "5s")], &[("memory", "64MiB")])).unwrap();
        assert_eq!((defaults.fuel, defaults.wall_ms), (1_000_000_000, 5_000));
        assert_eq!((defaults.memory, maximum.memory), (64 << 20, 64 << 20));
    }

    #[test]
    fn wrong_limits_are_named() {
        for (default, max, named) in [
            (&[("disk", "1")][..], &[][..], "no limit `disk`"),
            (&[("fuel", "many")], &[], "many"),
            (&[("fuel", "0")], &[], "more than 0"),
            (&[("memory", "2GiB")], &[("memory", "1GiB")], "limits.default.memory"),
            (&[], &[("memory", "5GiB")], "limits.max.memory"),
            (&[("stack", "1MiB")], &[], "limits.max.stack"),
        ] {
            let error = in_force(&config(default, max)).unwrap_err().1.to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
