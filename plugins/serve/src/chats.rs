//! Keys and values of chats on disk: kept when a model is unloaded, found again when it comes back.
//!
//! | part of the file | holds |
//! | --- | --- |
//! | 8 bytes | [`MAGIC`], which names the version |
//! | 8 bytes | length of the header, little-endian |
//! | 8 bytes | [`sum_of`] the header |
//! | header | JSON: whose keys and values they are, how they are stored, the texts and their pages |
//! | a record for each page | its numbers as the cache stores them, then 8 bytes of [`sum_of`] |
//!
//! The file is written beside its place and renamed, so it is whole or not there. It is believed only as far as it is that of this very model and its header's sum is right, and each page only if its
//! own is; anything else is as if there were no file. Pages are read when a request begins like the text that they belong to.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use witness_plugin_protocol::{ChatsFile, FileRef};

const MAGIC: &[u8; 8] = b"WTNSKV01";
/// Bytes before the header.
const START_BYTES: u64 = 24;
/// Longest header: some million tokens.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Shortest text that is worth a place on the disk: fewer tokens are computed as quickly as found.
pub(crate) const TOKENS_MIN: usize = 64;

/// Marks the number of a page of the file that is being replaced.
const OLD: u64 = 1 << 63;

/// Where the chats of a model are kept, and what was kept the last time.
pub(crate) struct Chats {
    place: ChatsFile,
    about: About,
    kept: Option<Kept>,
}

/// Whose keys and values they are and how they are stored. A file about anything else is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Names and digests of the base's files.
    pub(crate) model: String,
    /// Type of the numbers, positions of a page, layers, heads, numbers of a vector.
    pub(crate) storage: String,
    pub(crate) page_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    about: About,
    texts: Vec<Text>,
}

/// A text whose keys and values are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Text {
    /// Names and digests of the adapter's files; empty for the base alone.
    pub(crate) adapter: String,
    pub(crate) tokens: Vec<u32>,
    /// Numbers of its records.
    pub(crate) pages: Vec<u64>,
}

struct Kept {
    file: File,
    texts: Vec<Text>,
    records_at: u64,
}

impl Chats {
    /// Looks at what is kept.
    pub(crate) fn open(place: ChatsFile, about: About) -> Chats {
        let kept = Kept::open(&place.path, &about).ok().flatten();
        Chats { place, about, kept }
    }

    /// Returns the kept text that has the longest beginning in common with `tokens`, and how long that is.
    pub(crate) fn best(&self, adapter: &str, tokens: &[u32]) -> Option<(&Text, usize)> {
        let texts = self.kept.as_ref()?.texts.iter().filter(|text| text.adapter == adapter);
        let common = |text: &Text| text.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        texts.map(|text| (text, common(text))).max_by_key(|(_, common)| *common)
    }

    /// Reads a page.
    pub(crate) fn page(&self, number: u64) -> io::Result<Vec<u8>> {
        let Some(kept) = &self.kept else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let record_bytes = self.about.page_bytes + 8;
        let at = number
            .checked_mul(record_bytes)
            .and_then(|at| at.checked_add(kept.records_at));
        let at = at.ok_or(io::ErrorKind::InvalidData)?;
        let mut record = vec![0; usize::try_from(record_bytes).map_err(io::Error::other)?];
        kept.file.read_exact_at(&mut record, at)?;
        let sum = record.split_off(record.len() - 8);
        if sum != sum_of(&record).to_le_bytes() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a page of kept chats is damaged",
            ));
        }
        Ok(record)
    }

    /// Forgets what was kept, for this run of the program.
    pub(crate) fn distrust(&mut self) {
        self.kept = None;
    }

    /// Keeps texts, those that come first before the others, as far as there is room; behind them what was kept before and is not the beginning of one of them. A text's
    /// pages are numbers that `bytes_of` makes the page of.
    pub(crate) fn keep(&mut self, texts: Vec<Text>, bytes_of: impl Fn(u64) -> Option<Vec<u8>>) -> io::Result<()> {
        let old = self.kept.as_ref().map(|kept| kept.texts.clone()).unwrap_or_default();
        let is_in = |old: &Text, new: &Text| old.adapter == new.adapter && new.tokens.starts_with(&old.tokens);
        let old = old.into_iter().filter(|old| !texts.iter().any(|new| is_in(old, new)));
        let old = old.map(|mut text| {
            text.pages.iter_mut().for_each(|page| *page |= OLD);
            text
        });
        let all = texts.iter().cloned().chain(old).collect();
        let of_all = |page: u64| match page & OLD {
            0 => bytes_of(page),
            _ => self.page(page & !OLD).ok(),
        };
        match self.write(all, of_all) {
            // Something of the old is damaged: it goes.
            Err(_) if self.kept.is_some() => {
                self.kept = None;
                self.write(texts, bytes_of)
            }
            written => written,
        }
    }

    fn write(&self, texts: Vec<Text>, bytes_of: impl Fn(u64) -> Option<Vec<u8>>) -> io::Result<()> {
        let record_bytes = self.about.page_bytes + 8;
        let mut room = self.place.bytes_max / record_bytes.max(1);
        let mut header = Header {
            about: self.about.clone(),
            texts: Vec::new(),
        };
        let mut records: Vec<u64> = Vec::new();
        for mut text in texts {
            // Texts that begin alike have pages in common, which are written once.
            let mut new: Vec<u64> = Vec::new();
            for page in &mut text.pages {
                let known = records.iter().chain(&new).position(|known| known == page);
                let number = known.unwrap_or(records.len() + new.len());
                if known.is_none() {
                    new.push(*page);
                }
                *page = number as u64;
            }
            if new.len() as u64 <= room {
                room -= new.len() as u64;
                records.append(&mut new);
                header.texts.push(text);
            }
        }
        let path = &self.place.path;
        if header.texts.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let beside = path.with_extension(format!("{}.part", std::process::id()));
        let written = write_file(
            &beside,
            &header,
            records.iter().map_while(|page| bytes_of(*page)),
            records.len(),
        );
        let placed = written.and_then(|()| std::fs::rename(&beside, path));
        if placed.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        placed
    }
}

fn write_file(path: &Path, header: &Header, pages: impl Iterator<Item = Vec<u8>>, n_pages: usize) -> io::Result<()> {
    // Chats are nobody else's to read.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let json = serde_json::to_vec(header)?;
    out.write_all(MAGIC)?;
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    out.write_all(&sum_of(&json).to_le_bytes())?;
    out.write_all(&json)?;
    let mut n_written = 0;
    for page in pages {
        out.write_all(&page)?;
        out.write_all(&sum_of(&page).to_le_bytes())?;
        n_written += 1;
    }
    out.flush()?;
    if n_written == n_pages {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Kept {
    /// Reads the header of a file; nothing if it is about something else.
    fn open(path: &Path, about: &About) -> io::Result<Option<Kept>> {
        let mut file = File::open(path)?;
        let mut start = [0; START_BYTES as usize];
        file.read_exact(&mut start)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| start[at + byte]));
        let length = word(8);
        if start[..8] != *MAGIC || length > HEADER_BYTES_MAX {
            return Ok(None);
        }
        let mut json = Vec::new();
        (&mut file).take(length).read_to_end(&mut json)?;
        if sum_of(&json) != word(16) {
            return Ok(None);
        }
        let Ok(header) = serde_json::from_slice::<Header>(&json) else {
            return Ok(None);
        };
        Ok((header.about == *about).then_some(Kept {
            file,
            texts: header.texts,
            records_at: START_BYTES + length,
        }))
    }
}

/// Returns one name for files that are equal by name and digest; nothing where a digest is not known.
pub(crate) fn name_of(files: &[FileRef]) -> Option<String> {
    let mut name = String::new();
    for file in files {
        if file.digest.is_empty() {
            return None;
        }
        name.push_str(&format!("{}={};", file.name, file.digest));
    }
    Some(name)
}

/// Returns a sum of bytes that a flipped bit or a lost sector changes. Against damage, not against malice: whoever can write here can write the answers too.
fn sum_of(bytes: &[u8]) -> u64 {
    // FNV-1a's step over words of 8 bytes, in four lanes so that it keeps up with the disk.
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut lanes = [0xcbf2_9ce4_8422_2325u64; 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
        }
    }
    let mut sum = rest.iter().fold(bytes.len() as u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(PRIME)
    });
    for lane in lanes {
        sum = (sum ^ lane ^ (lane >> 32)).wrapping_mul(PRIME);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chats(path: &Path, model: &str, bytes_max: u64) -> Chats {
        let place = ChatsFile {
            path: path.to_owned(),
            bytes_max,
        };
        let about = About {
            model: model.to_owned(),
            storage: "f16".to_owned(),
            page_bytes: 100,
        };
        Chats::open(place, about)
    }

    fn text(adapter: &str, tokens: &[u32], pages: &[u64]) -> Text {
        Text {
            adapter: adapter.to_owned(),
            tokens: tokens.to_vec(),
            pages: pages.to_vec(),
        }
    }

    fn page(number: u64) -> Option<Vec<u8>> {
        Some((0..100).map(|at| (number * 31 + at) as u8).collect())
    }

    #[test]
    fn what_is_kept_is_found_by_its_own_model() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chats");
        // Two texts share page 7; the third finds no room.
        let texts = vec![
            text("", &[1, 2, 3], &[7, 9]),
            text("a", &[1, 2], &[7, 5]),
            text("", &[8], &[4]),
        ];
        chats(&path, "one", 330).keep(texts, page).unwrap();
        let found = chats(&path, "one", 330);
        let (best, common) = found.best("", &[1, 2, 9]).unwrap();
        assert_eq!((best.pages.as_slice(), common), (&[0, 1][..], 2));
        assert_eq!(found.page(1).unwrap(), page(9).unwrap());
        let (best, common) = found.best("a", &[1, 2, 9]).unwrap();
        assert_eq!((best.pages.as_slice(), common), (&[0, 2][..], 2));
        assert_eq!(found.page(2).unwrap(), page(5).unwrap());
        assert_eq!(found.best("", &[8]).unwrap().1, 0, "there was no room");
        assert!(found.page(3).is_err() && found.page(u64::MAX).is_err());
        assert!(chats(&path, "other", 330).best("", &[1]).is_none());
        assert_eq!(
            std::fs::read_dir(&directory).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        // What was kept before stays behind what is new, unless that goes on from it.
        let mut again = chats(&path, "one", 1000);
        again.keep(vec![text("", &[1, 2, 3, 4], &[6])], page).unwrap();
        let found = chats(&path, "one", 1000);
        let (best, common) = found.best("a", &[1, 2]).unwrap();
        assert_eq!((best.pages.as_slice(), common), (&[1, 2][..], 2));
        assert_eq!(found.page(2).unwrap(), page(5).unwrap());
        assert_eq!(found.best("", &[1, 2, 3, 4]).unwrap().0.pages, [0]);
        assert_eq!(found.kept.as_ref().unwrap().texts.len(), 2);
        // Nothing to keep, and nothing was: the file goes.
        chats(&path, "other", 330).keep(Vec::new(), page).unwrap();
        assert!(!path.exists());
    }

    // Whatever happens to the file, it is refused as a whole or a page of it is, and no page is ever another than it was.
    #[test]
    fn damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chats");
        chats(&path, "one", 1000)
            .keep(vec![text("", &[1, 2, 3], &[7, 9])], page)
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let found = chats(&path, "one", 1000);
            for (number, original) in [(0, 7), (1, 9)] {
                if let Ok(bytes) = found.page(number) {
                    assert_eq!(Some(bytes), page(original));
                }
            }
            if let Some((text, _)) = found.best("", &[1, 2, 3]) {
                assert_eq!((&text.tokens[..], &text.pages[..]), (&[1, 2, 3][..], &[0, 1][..]));
            }
        };
        for length in 0..whole.len() {
            check(&whole[..length]);
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            check(&changed);
        }
    }
}
