//! The `leftoff` program: reads the command line, runs one command, and ends with its exit code.

#![warn(clippy::print_stdout, clippy::print_stderr, reason = "they panic when nobody reads it")]

mod cli;

/// sled allocates and frees buffers of 8 MiB. The system's allocator returns them to the kernel
/// each time, and the page faults cost a third of the append rate: 0.24 to 0.32 of a plain file's
/// rate with the system's allocator, 0.36 to 0.40 with this one (`cargo bench --bench log_append`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
