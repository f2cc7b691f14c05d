//! Readers of both formats and of protocol buffers, as plain as can be, for tests alone.

use std::path::PathBuf;

use crate::checksum::{crc32, masked_crc32c};

/// A field of a message: its number and what it holds, undecoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wire {
    Integer(i64),
    Fixed64(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
}

impl Wire {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Wire::Bytes(bytes) => bytes,
            other => panic!("{other:?} is no text"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap()
    }

    pub(crate) fn integer(&self) -> i64 {
        match self {
            Wire::Integer(value) => *value,
            other => panic!("{other:?} is no whole number"),
        }
    }
}

/// Returns the fields of a message.
pub(crate) fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => Wire::Integer(varint(&mut bytes) as i64),
            1 => Wire::Fixed64(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut bytes) as usize;
                Wire::Bytes(take(&mut bytes, length).to_vec())
            }
            5 => Wire::Fixed32(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, value));
    }
    fields
}

/// Returns the first field of a number.
pub(crate) fn field(bytes: &[u8], number: u64) -> Option<Wire> {
    let found = fields(bytes).into_iter().find(|(found, _)| *found == number);
    found.map(|(_, value)| value)
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(n);
    *bytes = rest;
    taken
}

/// Returns the whole records of an event file, checks proven.
pub(crate) fn tf_records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while file.len() >= 12 {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(file[8..12], masked_crc32c(&file[..8]).to_le_bytes());
        if file.len() < 16 + length {
            break;
        }
        let data = &file[12..12 + length];
        assert_eq!(file[12 + length..16 + length], masked_crc32c(data).to_le_bytes());
        records.push(data.to_vec());
        file = &file[16 + length..];
    }
    records
}

/// Returns the whole records of a W&B log, checks proven.
pub(crate) fn wandb_records(file: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    if file.len() < 7 {
        return records;
    }
    assert_eq!(&file[..7], b":W&B\xe1\xbe\x00");
    let (mut at, mut record, mut is_open) = (7, Vec::new(), false);
    while at + 7 <= file.len() {
        let left = 32_768 - at % 32_768;
        if left < 7 {
            assert!(file[at..(at + left).min(file.len())].iter().all(|byte| *byte == 0));
            at += left;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([file[at + 4], file[at + 5]]));
        let kind = file[at + 6];
        assert!(7 + length <= left, "a fragment crosses its block");
        if at + 7 + length > file.len() {
            break;
        }
        let data = &file[at + 7..at + 7 + length];
        assert_eq!(file[at..at + 4], crc32(&[&[kind], data]).to_le_bytes());
        assert_eq!(matches!(kind, 3 | 4), is_open);
        is_open = matches!(kind, 2 | 3);
        record.extend(data);
        if !is_open {
            records.push(std::mem::take(&mut record));
        }
        at += 7 + length;
    }
    records
}

/// Returns a path below the reference data, or nothing, said, when they are not there.
pub(crate) fn reference(path: &str) -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut found = start.ancestors().map(|directory| directory.join("shared").join(path));
    let found = found.find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {path} needs ../shared");
    }
    found
}

/// Returns bytes from their hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(digit).collect()
}
