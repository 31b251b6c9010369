//! A file system in memory that loses all bytes that were not synced, as a disk does when the power
//! fails.
//!
//! ```text
//! write ──▶ now ──▶ read              the content that programs see
//!            │ fsync
//!            ▼
//!           kept                      the content that survives a loss of power
//! ```
//!
//! File names, and the sizes of synced files, survive at once; contents, and the sizes that go with
//! them, survive only when synced. After the power has failed, nothing can be synced.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

/// The kernel caches nothing, so that it also loses the bytes that were not synced.
const TTL: Duration = Duration::ZERO;

/// The unit of syncing, in bytes.
const PAGE_BYTES: usize = 4096;

/// A file or a directory.
#[derive(Default)]
struct Node {
    is_directory: bool,
    now: Vec<u8>,
    kept: Vec<u8>,
    /// Pages of `now` that are not yet copied to `kept`.
    dirty: BTreeSet<usize>,
    names: BTreeMap<OsString, u64>,
}

impl Node {
    fn touch(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
    }

    fn resize(&mut self, size: usize) {
        let (from, to) = (self.now.len().min(size), self.now.len().max(size));
        self.now.resize(size, 0);
        self.touch(from, to);
    }

    fn sync(&mut self) {
        self.kept.resize(self.now.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let end = self.now.len().min((page + 1) * PAGE_BYTES);
            let start = end.min(page * PAGE_BYTES);
            self.kept[start..end].copy_from_slice(&self.now[start..end]);
        }
    }
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    last: u64,
    has_power: bool,
    /// Whether the file system hides its size and its free space.
    is_silent: bool,
}

impl State {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let node = self.nodes.get(&ino)?;
        let size = node.now.len() as u64;
        let kind = if node.is_directory { FileType::Directory } else { FileType::RegularFile };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if node.is_directory { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        })
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        self.nodes.get(&parent.0)?.names.get(name).copied()
    }

    fn create(&mut self, parent: INodeNo, name: &OsStr, is_directory: bool) -> Option<FileAttr> {
        self.last += 1;
        let ino = self.last;
        self.nodes.get_mut(&parent.0)?.names.insert(name.to_owned(), ino);
        self.nodes.insert(ino, Node { is_directory, ..Node::default() });
        self.attr(ino)
    }
}

/// The mounted file system, unmounted when the value is dropped.
pub(crate) struct Forgetful {
    state: Arc<Mutex<State>>,
    directory: tempfile::TempDir,
    _session: BackgroundSession,
}

struct Mounted(Arc<Mutex<State>>);

impl Forgetful {
    /// Mounts the file system. Prints the reason and returns `None` where that is not possible.
    pub(crate) fn mount() -> Option<Self> {
        let root = Node { is_directory: true, ..Node::default() };
        let nodes = BTreeMap::from([(INodeNo::ROOT.0, root)]);
        let state = State { nodes, last: INodeNo::ROOT.0, has_power: true, is_silent: false };
        let state = Arc::new(Mutex::new(state));
        let directory = tempfile::tempdir().unwrap();
        let mounted = Mounted(state.clone());
        match fuser::spawn_mount(mounted, directory.path(), &Config::default()) {
            Ok(session) => Some(Self { state, directory, _session: session }),
            Err(error) => {
                println!("skipped: no file system in user space can be mounted here: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the file system report a size and a free space of 0 from now on.
    pub(crate) fn fall_silent(&self) {
        self.state.lock().unwrap().is_silent = true;
    }

    /// Cuts the power: nothing can be synced from now on.
    pub(crate) fn cut_power(&self) {
        self.state.lock().unwrap().has_power = false;
    }

    /// Copies to a directory all bytes that would be left if the power failed now.
    #[allow(dead_code, reason = "for the tests of single files of the log")]
    pub(crate) fn copy_kept(&self, to: &Path) {
        self.state.lock().unwrap().copy_kept(INodeNo::ROOT.0, to);
    }

    /// Restores the power: all bytes that were not synced are gone. No one may have a file open.
    pub(crate) fn restore_power(&self) {
        let mut state = self.state.lock().unwrap();
        state.has_power = true;
        for node in state.nodes.values_mut() {
            node.now = node.kept.clone();
            node.dirty.clear();
        }
    }
}

impl State {
    fn copy_kept(&self, ino: u64, to: &Path) {
        for (name, child) in &self.nodes[&ino].names {
            let (node, to) = (&self.nodes[child], to.join(name));
            if node.is_directory {
                std::fs::create_dir(&to).unwrap();
                self.copy_kept(*child, &to);
            } else {
                std::fs::write(&to, &node.kept).unwrap();
            }
        }
    }
}

impl Mounted {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state.child(parent, name).and_then(|ino| state.attr(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let Some((node, size)) = state.nodes.get_mut(&ino.0).zip(size) {
            node.resize(size as usize);
        }
        match state.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.state().create(parent, name, true) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.state().create(parent, name, false) {
            Some(attr) => {
                let (handle, flags) = (FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
                reply.created(&TTL, &attr, Generation(0), handle, flags);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        // The node stays, since a program may have the file open.
        let mut state = self.state();
        match state.nodes.get_mut(&parent.0).and_then(|node| node.names.remove(name)) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let moved = state.nodes.get_mut(&parent.0).and_then(|node| node.names.remove(name));
        match moved.zip(state.nodes.get_mut(&new_parent.0)) {
            Some((ino, node)) => {
                node.names.insert(new_name.to_owned(), ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let Some(node) = state.nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        let start = node.now.len().min(offset as usize);
        let end = node.now.len().min(start + size as usize);
        reply.data(&node.now[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let (start, end) = (offset as usize, offset as usize + data.len());
        if node.now.len() < end {
            node.resize(end);
        }
        node.now[start..end].copy_from_slice(data);
        node.touch(start, end);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // A closed file is not synced.
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if !state.has_power {
            return reply.error(Errno::EIO);
        }
        match state.nodes.get_mut(&ino.0) {
            Some(node) => {
                node.sync();
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let Some(node) = state.nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        for (index, (name, child)) in (1..).zip(&node.names).skip(offset as usize) {
            let is_directory = state.nodes.get(child).is_some_and(|node| node.is_directory);
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*child), index, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        if self.state().is_silent {
            return reply.statfs(0, 0, 0, 0, 0, PAGE_BYTES as u32, 255, 0);
        }
        let blocks = 1 << 20; // 4 GiB, all of them free.
        reply.statfs(blocks, blocks, blocks, 1 << 20, 1 << 20, PAGE_BYTES as u32, 255, 4096);
    }
}
