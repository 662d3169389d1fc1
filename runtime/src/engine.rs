//! The wasmtime engine: which of its features guests get, and why.

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::limits;

/// The exact wasmtime this was built with.
pub const WASMTIME_VERSION: &str = env!("WASMTIME_VERSION");

/// How code is compiled. Code of one variant does not run in an engine of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The bits of a NaN are whatever the processor makes of them.
    Fast,
    /// The same input gives the same output everywhere: every NaN has the same bits.
    Deterministic,
}

impl Variant {
    /// The variant of a job.
    #[must_use]
    pub fn of(deterministic: bool) -> Self {
        if deterministic { Variant::Deterministic } else { Variant::Fast }
    }
}

/// Makes the engine for `slots` attempts at a time, of guests with stacks of `stack_bytes`.
///
/// Instances come from a pool, which makes a start twice as fast; where the address space for the
/// pool cannot be had, every attempt maps its own memory instead.
pub fn engine(slots: u32, variant: Variant, stack_bytes: usize) -> wasmtime::Result<Engine> {
    let mut config = config(variant)?;
    // What compiles does not ask for it: guests look at the end of their stack while they run.
    config.max_wasm_stack(stack_bytes).async_stack_size(2 * stack_bytes + (1 << 20));
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    Engine::new(&config).or_else(|error| {
        tracing::warn!(%error, "no address space for an instance pool; every attempt will map its own memory");
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })
}

/// Makes an engine that only compiles: code for [`engine`], without a pool for instances.
pub(crate) fn compiling(variant: Variant) -> wasmtime::Result<Engine> {
    Engine::new(&config(variant)?)
}

fn config(variant: Variant) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(variant == Variant::Deterministic)
        .consume_fuel(true)
        .memory_init_cow(true)
        // Up to this size memory is kept as an image even if it is nearly all zeros. wasmtime's own
        // 16 MiB let a module of 69 bytes become a file of 16.8 MB in the cache of compiled code.
        .memory_guaranteed_dense_image_size(256 * 1024)
        // Debug sections come from strangers: do not parse them.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .debug_info(false)
        // Guests are synchronous; each attempt has its own thread.
        .concurrency_support(false)
        // Code that a faulty patch release compiled must not outlive it.
        .module_version(ModuleVersionStrategy::Custom(format!("wasmtime {WASMTIME_VERSION}")))?;
    for unwanted in UNWANTED {
        config.wasm_features(unwanted, false);
    }
    Ok(config)
}

/// What is left out is left out because most of wasmtime's own security fixes are about it and no
/// job needs it.
const UNWANTED: [WasmFeatures; 7] = [
    WasmFeatures::THREADS,
    WasmFeatures::MEMORY64,
    WasmFeatures::MULTI_MEMORY,
    WasmFeatures::RELAXED_SIMD,
    WasmFeatures::EXCEPTIONS,
    WasmFeatures::FUNCTION_REFERENCES,
    WasmFeatures::GC,
];

/// What guests get, for looking at a component without an engine: wasmtime's own choice, less what
/// is not wanted here and what wasmtime is built without. Tests hold the two together.
pub(crate) fn features() -> WasmFeatures {
    let unwanted = UNWANTED.into_iter().fold(WasmFeatures::GC_TYPES, |all, one| all | one);
    (WasmFeatures::WASM3 | WasmFeatures::COMPONENT_MODEL) - unwanted
}

/// A pool that fits what `slots` attempts may have at most, all of which is address space only
/// until it is touched.
fn pool(slots: u32) -> PoolingAllocationConfig {
    let of = |each: usize| u32::try_from(each).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(of(limits::INSTANCES_MAX)))
        .total_memories(slots.saturating_mul(of(limits::MEMORIES_MAX)))
        .total_tables(slots.saturating_mul(of(limits::TABLES_MAX)))
        .total_stacks(slots)
        .max_core_instances_per_component(of(limits::INSTANCES_MAX))
        .max_memories_per_component(of(limits::MEMORIES_MAX))
        .max_tables_per_component(of(limits::TABLES_MAX))
        // All in one module or one in each, as compilers like; wasmtime's default is one.
        .max_tables_per_module(of(limits::TABLES_MAX))
        .max_component_instance_size(8 << 20)
        .max_core_instance_size(8 << 20)
        .table_elements(limits::TABLE_ELEMENTS_RESERVED)
        .max_memory_size(4 << 30)
        // Re-using warm pages is what makes a pooled start cheap; more would be memory held for
        // nothing while idle.
        .linear_memory_keep_resident(256 * 1024)
        .table_keep_resident(64 * 1024)
        .async_stack_keep_resident(32 * 1024)
        .max_unused_warm_slots(slots);
    pool
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    fn settings(engine: &Engine) -> u64 {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn what_compiles_and_what_runs_have_the_same_settings_and_the_variants_have_not() {
        for variant in [Variant::Fast, Variant::Deterministic] {
            assert_eq!(settings(&engine(1, variant, 1 << 20).unwrap()), settings(&compiling(variant).unwrap()));
        }
        let [fast, deterministic] = [Variant::Fast, Variant::Deterministic].map(|variant| compiling(variant).unwrap());
        assert_ne!(settings(&fast), settings(&deterministic));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_features_of_the_processor_are_among_the_settings() {
        let mut config = config(Variant::Fast).unwrap();
        // Naming a target at all stands for a processor with the least features.
        config.target("x86_64-unknown-linux-gnu").unwrap();
        let least = Engine::new(&config).unwrap();
        assert_ne!(settings(&least), settings(&compiling(Variant::Fast).unwrap()));
    }
}
