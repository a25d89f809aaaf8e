//! A release in a `.tar` or a `.tar.gz`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::tree::Counted;
use super::{Intake, Offered};

/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Offers everything in the archive; progress counts the bytes of the archive itself.
pub(super) fn read(
    source: &Path,
    intake: &mut Intake<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    let mut file = File::open(source)?;
    let total = file.metadata()?.len();
    let mut first = [0; 2];
    let zipped = file.read_exact(&mut first).is_ok() && first == GZIP;
    file.rewind()?;
    let mut done = 0;
    progress(done, total);
    let counted = BufReader::new(Counted {
        inner: file,
        done: &mut done,
        total,
        progress,
    });
    if zipped {
        read_archive(Archive::new(MultiGzDecoder::new(counted)), intake)
    } else {
        read_archive(Archive::new(counted), intake)
    }
}

fn read_archive(mut archive: Archive<impl Read>, intake: &mut Intake<'_>) -> io::Result<()> {
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let mode = entry.header().mode()?;
        let offered = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Offered::File {
                mode,
                content: &mut entry,
            },
            EntryType::Directory => Offered::Directory,
            EntryType::Symlink => match entry.link_name()? {
                Some(target) => Offered::Link {
                    target: target.into_owned(),
                },
                None => Offered::Other("a link to nothing"),
            },
            EntryType::Link => Offered::Other("a hard link"),
            // Says something of the whole archive (`git archive` writes its commit here).
            EntryType::XGlobalHeader => continue,
            _ => Offered::Other("a device, pipe or unknown entry"),
        };
        intake.take(&path, offered)?;
    }
    Ok(())
}
