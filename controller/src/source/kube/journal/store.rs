//! The file: written anew, appended to, compacted, read. Blocks; runs on threads that may.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use config::report::ObjectRef;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::format::{self, HeaderError, Records, Scope};

/// Below the folder that the user names, so that its rights can be ours alone.
const FOLDER: &str = "kubernetes";
const FILE: &str = "objects.journal";
/// Of several processes, the one that has locked this file writes.
const LOCK: &str = "lock";
/// A file that is not complete yet has something between these; another process may be writing one as well.
const NEW_FILE: (&str, &str) = ("objects.journal.", ".new");
/// Files that were never completed are taken away when they are this old.
const STALE: Duration = Duration::from_secs(600);
/// A larger file is not read.
const MAX_FILE: u64 = 1 << 30;
/// A file is compacted when it has twice what counts, and this much besides.
const SLACK: u64 = 1024 * 1024;

/// Why there is nothing on disk that can be used.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ReadError {
    #[error("there is none")]
    None,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Header(#[from] HeaderError),
    #[error("others may write to it")]
    Foreign,
    #[error("it is larger than {} MiB", MAX_FILE / (1024 * 1024))]
    TooLarge,
}

/// What was on disk.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// Where records begin.
    pub(super) start: usize,
    pub(super) saved: SystemTime,
}

/// Makes the folder that objects are kept in, below `state`; one that is there must be ours.
pub(super) fn make_folder(state: &Path) -> io::Result<PathBuf> {
    let path = state.join(FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    let (folder, metadata) = open_folder(&path)?;
    // Whoever mounts a volume for a group of users lets that group into everything that is on it.
    if is_of_this_user(&metadata) && metadata.mode() & 0o077 != 0 {
        folder.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(path)
}

/// Opens the folder, if nobody but we and root can have put it there or let others into it. Follows no link.
fn open_folder(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let folder = OpenOptions::new().read(true).custom_flags(bits(flags)).open(path)?;
    let metadata = folder.metadata()?;
    let is_ours = is_of_this_user(&metadata) || metadata.uid() == 0;
    if !is_ours || metadata.mode() & 0o002 != 0 {
        let text = "the folder belongs to another user, or everybody may write to it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok((folder, metadata))
}

fn is_of_this_user(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

fn bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// Takes the right to write to `folder`, which lasts as long as the file is open; `None` while another process has it.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(bits(OFlags::NOFOLLOW)).open(folder.join(LOCK))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        // Where there are no locks, it is as if there were nobody else.
        Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => Ok(Some(file)),
        Err(error) => Err(error.into()),
    }
}

/// Reads what is on disk below `state`.
pub(super) fn read(state: &Path, scope: &Scope) -> Result<Content, ReadError> {
    let path = state.join(FOLDER);
    let file = open_folder(&path).and_then(|_| {
        OpenOptions::new().read(true).custom_flags(bits(OFlags::NOFOLLOW)).open(path.join(FILE))
    });
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    // Whoever could write to it could have us serve what he likes. A volume's group is whom the volume was mounted for.
    let is_ours = is_of_this_user(&metadata) && metadata.mode() & 0o002 == 0;
    if !is_ours || !metadata.is_file() {
        return Err(ReadError::Foreign);
    }
    if metadata.mode() & 0o077 != 0 {
        // It is the owner's alone again, where that can be had.
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
    if metadata.len() > MAX_FILE {
        return Err(ReadError::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    let start = format::read_header(&bytes, scope)?;
    Ok(Content { bytes, start, saved: metadata.modified()? })
}

/// Where the record that counts is.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    length: u32,
}

/// A file that is written.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    scope: Scope,
    file: File,
    /// Where it is until it is complete.
    path: PathBuf,
    /// It is the one that is read at the next start.
    is_current: bool,
    length: u64,
    /// object, by its hash → its last record
    live: HashMap<u64, Place>,
    live_bytes: u64,
    hasher: RandomState,
}

impl Store {
    /// Begins a new file, next to the one that is there.
    pub(super) fn begin(folder: PathBuf, scope: Scope) -> io::Result<Self> {
        let header = format::header(&scope);
        let path = folder.join(format!("{}{:016x}{}", NEW_FILE.0, fastrand::u64(..), NEW_FILE.1));
        sweep(&folder);
        let file = new_file(&path, &header)?;
        let length = header.len() as u64;
        let (live, hasher) = (HashMap::new(), RandomState::new());
        Ok(Self { folder, scope, file, path, is_current: false, length, live, live_bytes: 0, hasher })
    }

    /// Size of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends what is new of these objects; `None` if they are gone.
    pub(super) fn append(&mut self, news: &[(ObjectRef, Option<Box<[u8]>>)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(news.len());
        for (object, json) in news {
            let key = self.hasher.hash_one(object);
            // What is not there need not be taken away.
            if json.is_none() && !self.live.contains_key(&key) {
                continue;
            }
            let start = bytes.len();
            if format::write_record(&mut bytes, object, json.as_deref()) {
                places.push((key, start, bytes.len() - start, json.is_some()));
            }
        }
        // After an error the file may be longer than is known; what is in between is skipped when it is read.
        let offset = self.file.seek(SeekFrom::End(0))?;
        self.length = offset;
        self.file.write_all(&bytes)?;
        self.length += bytes.len() as u64;
        for (key, start, length, is_there) in places {
            let place =
                Place { offset: offset + start as u64, length: u32::try_from(length).unwrap_or(u32::MAX) };
            let old = if is_there { self.live.insert(key, place) } else { self.live.remove(&key) };
            self.live_bytes -= old.map_or(0, |old| u64::from(old.length));
            self.live_bytes += if is_there { length as u64 } else { 0 };
        }
        Ok(())
    }

    /// From now on, this is the file that is read at the next start.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, self.folder.join(FILE))?;
        File::open(&self.folder)?.sync_all()?;
        self.is_current = true;
        Ok(())
    }

    /// Notes that the objects are still those that are in use.
    pub(super) fn touch(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())
    }

    /// True if too much of the file is of no use, or another process has put its own in its place.
    pub(super) fn wants_compaction(&self) -> bool {
        if !self.is_current {
            return false;
        }
        if self.length > 2 * self.live_bytes + SLACK {
            return true;
        }
        let ours = self.file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let there =
            std::fs::metadata(self.folder.join(FILE)).map(|metadata| (metadata.dev(), metadata.ino()));
        ours.ok() != there.ok()
    }

    /// Writes what counts to a new file, which takes the place of this one.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        let mut new = Self::begin(self.folder.clone(), self.scope.clone())?;
        let mut places: Vec<(u64, Place)> = self.live.iter().map(|(key, place)| (*key, *place)).collect();
        places.sort_unstable_by_key(|(_, place)| place.offset);
        let mut out = io::BufWriter::with_capacity(256 * 1024, &mut new.file);
        let mut record = Vec::new();
        for (key, place) in places {
            record.resize(usize::try_from(place.length).unwrap_or(usize::MAX), 0);
            self.file.read_exact_at(&mut record, place.offset)?;
            // What was damaged since it was written is not carried along.
            if Records::new(&record).next().is_none() {
                continue;
            }
            out.write_all(&record)?;
            new.live.insert(key, Place { offset: new.length, ..place });
            new.length += u64::from(place.length);
            new.live_bytes += u64::from(place.length);
        }
        out.flush()?;
        drop(out);
        new.hasher = self.hasher.clone();
        new.commit()?;
        *self = new;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.is_current {
            // Nobody else can have made a file of this name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn new_file(path: &Path, header: &[u8]) -> io::Result<File> {
    // It must be our own file: with `create_new`, nothing that somebody put there is followed or kept.
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(header)?;
    Ok(file)
}

/// Takes away what processes left that were killed.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_new = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(NEW_FILE.0) && name.ends_with(NEW_FILE.1));
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_stale = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= STALE));
        if is_new && is_stale {
            // If it cannot be taken away it stays.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
