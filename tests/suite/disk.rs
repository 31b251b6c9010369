//! Separate file systems for tests: small ones, in memory or in a file.

use std::ffi::CString;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};

/// A mounted file system, unmounted when the value is dropped.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts `mib` MiB of memory. Returns `None` where mounting is not allowed.
    pub(crate) fn in_memory(mib: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = CString::new(format!("size={mib}m")).unwrap();
        let flags = MountFlags::empty();
        match rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, options.as_c_str()) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                println!("skipped: no file system in memory can be mounted here: {error}");
                None
            }
        }
    }

    /// Mounts an ext4 file system of `mib` MiB in a file. Returns `None` where that cannot be
    /// mounted.
    pub(crate) fn ext4(mib: u64) -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        image.as_file().set_len(mib << 20).unwrap();
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(arguments).output();
            match output {
                Ok(output) if output.status.success() => true,
                other => {
                    println!("skipped: no ext4 can be mounted here: {program}: {other:?}");
                    false
                }
            }
        };
        let (at, image) = (directory.path().as_os_str(), image.path().as_os_str());
        let is_mounted = run("mkfs.ext4", &["-q".as_ref(), image])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), image, at]);
        is_mounted.then_some(Self(directory)) // The mount keeps the deleted file.
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _left_to_the_system = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Returns the free space of the file system of `path`, in bytes.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let space = rustix::fs::statvfs(path).unwrap();
    space.f_bavail * space.f_frsize
}
