//! A system clock that is wrong for one process: a few lines of C, loaded before the program, which
//! shift what the clock says by the seconds in a file. The steady clock stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Says the time with the shift. The file stays mapped, so that a change counts at once.
const SHIFTED: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *shift;

__attribute__((constructor)) static void map_shift(void) {
    const char *path = getenv("SHIFT_OF_THE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) shift = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *also) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (also) *also = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The library that shifts clocks.
pub(super) struct ClockLibrary(TempDir);

impl ClockLibrary {
    /// Compiles the library; `None`, with the reason printed, if there is no compiler for it.
    pub(super) fn compile() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("clock.c");
        std::fs::write(&source, SHIFTED).unwrap();
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(directory.path().join("clock.so"));
        match command.arg(source).output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            other => {
                eprintln!("skipped: clocks that are wrong: cc does not compile: {other:?}");
                None
            }
        }
    }

    /// Returns a clock with no shift.
    pub(super) fn clock(&self, name: &str) -> ShiftedClock {
        let clock = ShiftedClock {
            library: self.0.path().join("clock.so"),
            file: self.0.path().join(name),
        };
        std::fs::write(&clock.file, [0; 8]).unwrap();
        clock
    }
}

/// The clock of one process.
pub(super) struct ShiftedClock {
    library: PathBuf,
    file: PathBuf,
}

impl ShiftedClock {
    /// Has a program that is started use the clock.
    pub(super) fn prepare(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("SHIFT_OF_THE_CLOCK", &self.file);
    }

    /// Shifts the clock by this many seconds, from now on.
    pub(super) fn shift(&self, seconds: i64) {
        write_in_place(&self.file, &seconds.to_ne_bytes());
    }
}

/// Writes without making a new file: the old one is mapped.
fn write_in_place(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt as _;

    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}
