//! Who has which address, on disk: for a process that decides alone, where no API server keeps it. One file, written as a
//! whole and put in the place of the former; its content is text: a line for each Service, `NAMESPACE/NAME ADDRESS…`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config::report::{Kind, ObjectRef};
use rustix::fs::{Access, access};

/// Name of the file.
const FILE: &str = "addresses";
/// The first line, by which other files are told apart.
const HEAD: &str = "sluicegate addresses 1";
/// The longest file that is read, in bytes.
const MOST: u64 = 64 * 1_024 * 1_024;

/// Service → its addresses
pub type Addresses = BTreeMap<ObjectRef, Box<[IpAddr]>>;

/// Where the addresses are kept.
#[derive(Clone, Debug)]
pub struct Memory {
    folder: PathBuf,
}

impl Memory {
    /// They are kept in `folder`, which is made if it is not there. Blocks.
    ///
    /// # Errors
    /// If it cannot be made or written to.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        access(folder, Access::WRITE_OK | Access::EXEC_OK)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// What was kept; nothing if nothing was. Blocks.
    ///
    /// # Errors
    /// If the file cannot be read, or is not one of ours: then it is better not to write over it, either.
    pub fn read(&self) -> io::Result<Addresses> {
        let path = self.folder.join(FILE);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Addresses::new()),
            Ok(meta) if meta.len() > MOST => return Err(io::Error::other("the file is too large")),
            Ok(_) | Err(_) => fs::read_to_string(&path)?,
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(io::Error::other("the file is not one of this program"));
        }
        // A line that makes no sense costs its Service the address that it had, and nothing else.
        Ok(lines.filter_map(entry).collect())
    }

    /// Keeps `addresses` instead of what was kept. Blocks.
    ///
    /// # Errors
    /// If that is not possible; what was kept stays.
    pub fn write(&self, addresses: &Addresses) -> io::Result<()> {
        let mut text = format!("{HEAD}\n");
        for (service, addresses) in addresses {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}/{}", service.namespace, service.name);
            for address in addresses {
                let _ = write!(text, " {address}");
            }
            text.push('\n');
        }
        let new = self.folder.join(format!("{FILE}.new"));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(new, self.folder.join(FILE))
    }
}

fn entry(line: &str) -> Option<(ObjectRef, Box<[IpAddr]>)> {
    let mut words = line.split_ascii_whitespace();
    let (namespace, name) = words.next()?.split_once('/').filter(|(_, name)| !name.is_empty())?;
    let addresses = words.map(|word| word.parse::<IpAddr>().ok()).collect::<Option<_>>()?;
    Some((ObjectRef { kind: Kind::Service, namespace: namespace.into(), name: name.into() }, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        assert_eq!(memory.read().unwrap(), Addresses::new());
        let service = ObjectRef { kind: Kind::Service, namespace: "shop".into(), name: "web".into() };
        let addresses: Box<[IpAddr]> = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into();
        let kept = Addresses::from([(service, addresses)]);
        memory.write(&kept).unwrap();
        assert_eq!(memory.read().unwrap(), kept);
        memory.write(&Addresses::new()).unwrap();
        assert_eq!(memory.read().unwrap(), Addresses::new());
    }

    #[test]
    fn a_damaged_line_costs_only_itself_and_another_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::open(folder.path()).unwrap();
        fs::write(folder.path().join(FILE), format!("{HEAD}\na/b 192.0.2.1\nc/d 192.0.2\n/\n\ne/f")).unwrap();
        let kept: Vec<String> = memory.read().unwrap().into_keys().map(|key| key.to_string()).collect();
        assert_eq!(kept, ["Service a/b", "Service e/f"]);
        fs::write(folder.path().join(FILE), "precious").unwrap();
        assert!(memory.read().is_err());
    }
}
