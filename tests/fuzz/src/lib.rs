//! The common part of all fuzz targets.

/// Runs `check`, and panics if it takes more memory than the input allows.
pub fn run(check: fn(&[u8]), input: &[u8]) {
    let taken = allocation_counter::measure(|| check(input)).bytes_max;
    let limit = leftoff::fuzzing::max_memory_bytes(input.len()) as u64;
    assert!(taken <= limit, "{taken} bytes, over {limit}, for an input of {}", input.len());
}
