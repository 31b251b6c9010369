//! Standard error, written by a thread of its own: log lines, panics, and a command's last words.
//!
//! ```text
//! any thread ──▶ queue (1 MiB) ──▶ writer thread ──▶ standard error
//!                  │ full: the line is dropped and counted
//! ```
//!
//! # Why
//!
//! `eprintln!` panics when the reader of standard error is gone or its disk is full, and blocks
//! when nobody empties the pipe. In a broker, a panic or a block would stop a task or a thread,
//! such as the one that waits for signals. So only the writer thread writes to standard error. A
//! line that cannot be written is dropped, and the next one is tried.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::terminal;

/// Lines that wait to be written, in bytes and in number. Those that find no room are dropped.
const MAX_QUEUED_BYTES: usize = 1 << 20;
const MAX_QUEUED_LINES: usize = 16 << 10;

/// The longest wait of the ending process for the queued lines.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// The queue of this process.
static QUEUE: OnceLock<DiagnosticQueue> = OnceLock::new();

/// The queue of the writer thread. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct DiagnosticQueue {
    lines: SyncSender<DiagnosticLine>,
    count: Arc<Count>,
}

/// The state of the queue.
#[derive(Debug, Default)]
struct Count {
    queued_bytes: AtomicUsize,
    /// Lines that were dropped since the last one was written.
    dropped: AtomicU64,
}

/// An entry of the queue.
#[derive(Debug)]
enum DiagnosticLine {
    Text(Box<[u8]>),
    /// Requests an answer as soon as all lines before it are written.
    Flush(SyncSender<()>),
}

impl DiagnosticQueue {
    /// Returns the queue of this process. The first call starts the thread, and has the messages of
    /// panics go to the queue.
    pub(super) fn of_process() -> Self {
        let start = || {
            let queue = Self::start(standard_error());
            std::panic::set_hook(Box::new(tell_panic));
            queue
        };
        QUEUE.get_or_init(start).clone()
    }

    /// Starts a thread that writes to `output`. If the system gives no thread, lines are dropped.
    fn start(output: impl Write + Send + 'static) -> Self {
        let (lines, queued) = sync_channel(MAX_QUEUED_LINES);
        let count = Arc::<Count>::default();
        let counted = count.clone();
        let thread = std::thread::Builder::new().name("diagnostics".to_owned());
        let _no_thread = thread.spawn(move || write_all(&queued, &counted, output));
        Self { lines, count }
    }

    /// Queues `text`, or drops it if there is no room.
    fn push(&self, text: &[u8]) {
        let Count { queued_bytes, dropped } = &*self.count;
        let before = queued_bytes.fetch_add(text.len(), Ordering::Relaxed);
        let is_queued = before.saturating_add(text.len()) <= MAX_QUEUED_BYTES
            && self.lines.try_send(DiagnosticLine::Text(text.into())).is_ok();
        if !is_queued {
            queued_bytes.fetch_sub(text.len(), Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the queued lines are written, for at most [`FLUSH_PATIENCE`].
    fn flush(&self) {
        let (answer, answered) = sync_channel(1);
        if self.lines.try_send(DiagnosticLine::Flush(answer)).is_ok() {
            let _the_reader_is_too_slow = answered.recv_timeout(FLUSH_PATIENCE);
        }
    }
}

impl Write for DiagnosticQueue {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a message for people to standard error. Never blocks, and never fails.
pub(super) fn say(message: impl Display) {
    let text = format!("{message}\n");
    DiagnosticQueue::of_process().push(terminal::message(&text).as_bytes());
}

/// Waits a moment until all messages are written: the process is about to end.
pub(super) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// Returns a separate handle: other users of the lock of [`io::stderr`] must not wait for the
/// thread.
fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(handle) => Box::new(File::from(handle)),
        Err(_no_more_files) => Box::new(io::stderr()),
    }
}

/// Writes the queued lines until every handle is dropped.
fn write_all(queued: &Receiver<DiagnosticLine>, count: &Count, mut output: impl Write) {
    while let Ok(line) = queued.recv() {
        match line {
            DiagnosticLine::Text(text) => {
                let _given_up = output.write_all(&text);
                count.queued_bytes.fetch_sub(text.len(), Ordering::Relaxed);
            }
            DiagnosticLine::Flush(answer) => {
                let _nobody_waits = answer.send(());
            }
        }
        let dropped = count.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let told = format!("leftoff: {dropped} lines dropped, because nobody read them\n");
            let _given_up = output.write_all(told.as_bytes());
        }
    }
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name").to_owned();
    let trace = std::backtrace::Backtrace::capture(); // Empty unless RUST_BACKTRACE asks for it.
    say(format_args!("leftoff: the thread {name:?} {panic}\n{trace}"));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that waits for permission before each write, and reports the text that it wrote.
    struct Gated {
        gate: Receiver<io::Result<()>>,
        written: mpsc::SyncSender<String>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.gate.recv().map_err(io::Error::other)??;
            self.written.send(String::from_utf8_lossy(text).into_owned()).unwrap();
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (DiagnosticQueue, mpsc::SyncSender<io::Result<()>>, Receiver<String>) {
        let (open, gate) = sync_channel(16);
        let (writes, written) = sync_channel(MAX_QUEUED_LINES);
        (DiagnosticQueue::start(Gated { gate, written: writes }), open, written)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn an_output_that_takes_nothing_holds_nobody_up_and_the_lines_are_bounded_in_bytes() {
        let (queue, open, written) = gated();
        let line = vec![b'x'; 1 << 10];
        for _ in 0..3_000 {
            queue.push(&line);
        }
        queue.flush(); // Gives up after a moment.
        assert!(queue.count.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
        assert_eq!(queue.count.dropped.load(Ordering::Relaxed), 3_000 - 1_024);
        open.send(Ok(())).unwrap();
        open.send(Ok(())).unwrap();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap().len(), 1 << 10);
        let told = written.recv_timeout(PATIENCE).unwrap();
        assert!(told.contains("1976 lines dropped"), "{told}");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_given_up_and_the_next_one_is_tried() {
        let (queue, open, written) = gated();
        open.send(Err(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
        open.send(Err(io::Error::from(io::ErrorKind::BrokenPipe))).unwrap();
        open.send(Ok(())).unwrap();
        ["one\n", "two\n", "three\n"].iter().for_each(|line| queue.push(line.as_bytes()));
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), "three\n");
    }
}
