//! The wasmtime engine: which of its features guests get, and why.

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::limits;

/// The exact wasmtime this was built with.
pub const WASMTIME_VERSION: &str = env!("WASMTIME_VERSION");

/// Makes the engine for `slots` attempts at a time.
///
/// Instances come from a pool, which makes a start twice as fast; where the address space for the
/// pool cannot be had, every attempt maps its own memory instead.
pub fn engine(slots: u32) -> wasmtime::Result<Engine> {
    let mut config = config()?;
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    Engine::new(&config).or_else(|error| {
        tracing::warn!(%error, "no address space for an instance pool; every attempt will map its own memory");
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })
}

fn config() -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .consume_fuel(true)
        .max_wasm_stack(limits::STACK_BYTES_MAX)
        .async_stack_size(2 * limits::STACK_BYTES_MAX + (1 << 20))
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
