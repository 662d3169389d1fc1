//! The TOML file, flattened to `section.key` with the line of each.

use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Setting, Source, keys};

/// Reads one file. Every key in it is known, every value is text, a number or a list of texts.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Setting)>, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table = DeTable::parse(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(&text, span.start)),
        message: error.message().to_owned(),
    })?;
    let mut file = File {
        path,
        text: &text,
        found: Vec::new(),
    };
    file.table("", table.get_ref())?;
    Ok(file.found)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(String, Setting)>,
}

impl File<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let source = self.source(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if !keys::is_known(&key) => {
                    // An empty section is still a misspelt one.
                    if !keys::is_section(&key) {
                        return Err(ConfigError::unknown(key, source));
                    }
                    self.table(&format!("{key}."), inner)?;
                }
                _ if keys::is_known(&key) => {
                    let value = self.value(&key, &source, value)?;
                    self.found.push((key, Setting { value, source }));
                }
                _ => return Err(ConfigError::unknown(key, source)),
            }
        }
        Ok(())
    }

    fn value(
        &self,
        key: &str,
        source: &Source,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, ConfigError> {
        as_text(value.get_ref()).ok_or_else(|| ConfigError::Value {
            key: key.to_owned(),
            from: source.clone(),
            value: self.text.get(value.span()).unwrap_or_default().to_owned(),
            reason: format!("a {} cannot be used here", value.get_ref().type_str()),
            valid: "a text in quotes, a number, or a list of texts",
        })
    }

    fn source(&self, offset: usize) -> Source {
        Source::File {
            path: self.path.to_owned(),
            line: line_of(self.text, offset),
        }
    }
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}
