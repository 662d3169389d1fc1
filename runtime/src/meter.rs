//! What an attempt costs: fuel for what the host does on its behalf, bytes of everything it holds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use wasmtime::ResourceLimiter;

use crate::limits::{self, Limit, Limits};

/// Ends the attempt: a ceiling was reached.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the {0} limit was reached")]
pub(crate) struct LimitReached(pub(crate) Limit);

/// Fuel for host calls. wasmtime counts the guest's instructions, this counts the host's work; the sum
/// is what an attempt used. Shared by everything that works for one attempt.
#[derive(Clone, Default)]
pub(crate) struct Charges(Arc<AtomicU64>);

impl Charges {
    /// Work of this much fuel.
    pub(crate) fn add(&self, fuel: u64) {
        // A sum that wraps would make everything free; no attempt gets near in the life of a machine.
        self.0.fetch_add(fuel, Ordering::Relaxed);
    }

    /// Bytes that the host moved, made or looked at.
    pub(crate) fn bytes(&self, bytes: usize) {
        self.add((bytes as u64).saturating_mul(limits::BYTE_FUEL));
    }

    /// All so far.
    pub(crate) fn fuel(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts linear memory, tables and what the host holds for the guest against one budget.
///
/// A growth that the budget refuses ends the attempt; one that the module's own maximum refuses
/// returns -1 to the guest, as WebAssembly says.
pub(crate) struct Meter {
    bytes: u64,
    bytes_max: u64,
    bytes_peak: u64,
    elements_max: u64,
    instances_max: usize,
}

/// What one table element costs the host.
const ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Meter {
            bytes: 0,
            bytes_max: limits.memory,
            bytes_peak: 0,
            elements_max: limits.table,
            instances_max: usize::try_from(limits.instances).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn bytes_peak(&self) -> u64 {
        self.bytes_peak
    }

    /// Counts bytes that the host holds for the guest from now on. Errors: there is no room for them.
    pub(crate) fn hold(&mut self, bytes: u64) -> Result<(), LimitReached> {
        let total = self.bytes.saturating_add(bytes);
        if total > self.bytes_max {
            return Err(LimitReached(Limit::Memory));
        }
        self.bytes = total;
        self.bytes_peak = self.bytes_peak.max(total);
        Ok(())
    }

    /// Counts bytes no longer that were held.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn grow(&mut self, current: u64, desired: u64) -> wasmtime::Result<bool> {
        self.hold(desired.saturating_sub(current))?;
        Ok(true)
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(current as u64, desired as u64)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The pool passes its own size for a module that states no maximum.
        let own = maximum.filter(|&maximum| maximum != limits::TABLE_ELEMENTS_RESERVED);
        if own.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if desired as u64 > self.elements_max {
            return Err(LimitReached(Limit::Table).into());
        }
        self.grow(ELEMENT_BYTES.saturating_mul(current as u64), ELEMENT_BYTES.saturating_mul(desired as u64))
    }

    fn instances(&self) -> usize {
        self.instances_max
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX
    }
}
