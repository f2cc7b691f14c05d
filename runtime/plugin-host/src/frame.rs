//! Frames on the socket between the host and a worker: a fixed header, then a payload of known length.
//!
//! Header, 16 bytes, little endian: `'W'`, [`FRAME_VERSION`], kind, 0, payload length (u32), id (u64). The id is the number of a
//! call, a sequence or a ping, by kind. Both ends are the same program in two processes, yet neither trusts the other: a plugin may
//! have written to the socket. **Invariant:** nothing is allocated for a payload before its length is checked.

use thiserror::Error;
use witness_plugin_protocol::Role;

/// Version of the frames; both ends must agree, as a daemon may outlive the file it was started from.
pub(crate) const FRAME_VERSION: u8 = 2;
/// Length of a header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Longest payload. A chat with a long context is a few MiB of JSON; a reply with a vocabulary-sized metadata table is less.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Longest event of a job: a plan with its histograms is some KiB.
pub(crate) const JOB_EVENT_BYTES_MAX: usize = 1 << 20;
/// Events of one job that may be on their way: sent by the worker and not yet taken by who reads them. A job that emits faster waits.
pub(crate) const JOB_EVENTS_MAX: usize = 64;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// To the worker, first of all: what to load and under which limits.
    Boot = 1,
    /// To the worker: a call of the plugin.
    Call = 2,
    /// To the worker: end the sequence `id`.
    Cancel = 3,
    /// To the worker: answer with [`FrameKind::Pong`].
    Ping = 4,
    /// To the worker: shut the plugin down and exit.
    Stop = 5,
    /// To the worker: the job `id` should save and end.
    StopJob = 6,
    /// To the worker: an event of the job `id` was taken, so that another may be sent.
    JobTaken = 7,
    /// From the worker: the call `id` succeeded.
    Reply = 16,
    /// From the worker: the call `id` failed; the payload is a diagnostic.
    Failure = 17,
    /// From the worker: events of sequences, see [`EventRecord`].
    Events = 18,
    /// From the worker: alive, see [`Pulse`].
    Pong = 19,
    /// From the worker: an event of the job `id`; the payload is its JSON.
    JobEvent = 20,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::{Boot, Call, Cancel, Events, Failure, JobEvent, JobTaken, Ping, Pong, Reply, Stop, StopJob};
        let all = [
            Boot, Call, Cancel, Ping, Stop, StopJob, JobTaken, Reply, Failure, Events, Pong, JobEvent,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) payload_bytes: usize,
    pub(crate) id: u64,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum FrameError {
    /// The first byte is not the frame's.
    #[error("the bytes {0:02x?} do not start a frame")]
    NoFrame([u8; 4]),
    /// The other end is another version of the program.
    #[error("frame version {found} where {FRAME_VERSION} is spoken; the program was replaced while it ran")]
    Version { found: u8 },
    /// Longer than any frame may be.
    #[error("a frame of {bytes} bytes exceeds the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong { bytes: usize },
    /// The payload does not hold what its kind says.
    #[error("the payload of a frame is cut short")]
    Short,
    /// More events of a job at once, or a longer one, than was agreed.
    #[error("a job sent more than {JOB_EVENTS_MAX} events ahead, or one of more than {JOB_EVENT_BYTES_MAX} bytes")]
    Overrun,
}

/// Decodes a header.
pub(crate) fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
    let start = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if bytes[0] != b'W' || bytes[3] != 0 {
        return Err(FrameError::NoFrame(start));
    }
    if bytes[1] != FRAME_VERSION {
        return Err(FrameError::Version { found: bytes[1] });
    }
    let kind = FrameKind::from_byte(bytes[2]).ok_or(FrameError::NoFrame(start))?;
    let payload_bytes = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: payload_bytes });
    }
    let id = u64_at(bytes, 8).ok_or(FrameError::Short)?;
    Ok(Header {
        kind,
        payload_bytes,
        id,
    })
}

/// Appends a frame to `out`. The parts together are its payload.
///
/// # Errors
/// The payload is longer than [`PAYLOAD_BYTES_MAX`]; nothing is appended.
pub(crate) fn encode_into(out: &mut Vec<u8>, kind: FrameKind, id: u64, parts: &[&[u8]]) -> Result<(), FrameError> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= PAYLOAD_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong { bytes })?;
    out.reserve(HEADER_BYTES + bytes);
    out.extend_from_slice(&[b'W', FRAME_VERSION, kind as u8, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Returns a frame.
///
/// # Errors
/// The payload is longer than [`PAYLOAD_BYTES_MAX`].
pub(crate) fn encode(kind: FrameKind, id: u64, parts: &[&[u8]]) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(&mut out, kind, id, parts)?;
    Ok(out)
}

/// What the plugin is asked to do. The byte travels in calls and in [`Pulse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Idle = 0,
    Open = 1,
    Inspect = 2,
    Load = 3,
    Unload = 4,
    LoadAdapter = 5,
    UnloadAdapter = 6,
    Start = 7,
    Cancel = 8,
    Step = 9,
    Shutdown = 10,
    Plan = 11,
    Run = 12,
}

impl Operation {
    const ALL: [Operation; 13] = [
        Operation::Idle,
        Operation::Open,
        Operation::Inspect,
        Operation::Load,
        Operation::Unload,
        Operation::LoadAdapter,
        Operation::UnloadAdapter,
        Operation::Start,
        Operation::Cancel,
        Operation::Step,
        Operation::Shutdown,
        Operation::Plan,
        Operation::Run,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Returns the name in messages: the function's name in the ABI.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Idle => "idle",
            Operation::Open => "open",
            Operation::Inspect => "inspect",
            Operation::Load => "load",
            Operation::Unload => "unload",
            Operation::LoadAdapter => "load_adapter",
            Operation::UnloadAdapter => "unload_adapter",
            Operation::Start => "start",
            Operation::Cancel => "cancel",
            Operation::Step => "step",
            Operation::Shutdown => "shutdown",
            Operation::Plan => "plan",
            Operation::Run => "run",
        }
    }

    /// Returns whether the caller gives a deadline of its own, so that a long silence is no sign of a hang.
    pub(crate) fn has_deadline(self) -> bool {
        matches!(
            self,
            Operation::Open | Operation::Inspect | Operation::Load | Operation::LoadAdapter | Operation::Plan
        )
    }
}

/// The payload of [`FrameKind::Call`] before its JSON: operation, number of the model (for a job: of its role), most events that the
/// sequence may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallHeader {
    pub(crate) operation: Operation,
    pub(crate) model: u64,
    pub(crate) tokens_max: u64,
}

impl CallHeader {
    /// Length of the encoded header.
    pub(crate) const BYTES: usize = 17;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = self.operation as u8;
        out[1..9].copy_from_slice(&self.model.to_le_bytes());
        out[9..17].copy_from_slice(&self.tokens_max.to_le_bytes());
        out
    }

    /// Splits a payload into header and JSON.
    pub(crate) fn decode(payload: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let operation = payload
            .first()
            .and_then(|byte| Operation::from_byte(*byte))
            .ok_or(FrameError::Short)?;
        let model = u64_at(payload, 1).ok_or(FrameError::Short)?;
        let tokens_max = u64_at(payload, 9).ok_or(FrameError::Short)?;
        let body = payload.get(Self::BYTES..).ok_or(FrameError::Short)?;
        Ok((
            Self {
                operation,
                model,
                tokens_max,
            },
            body,
        ))
    }
}

/// Returns the number that a role has in a call of a job.
pub(crate) fn number_of_role(role: Role) -> u64 {
    match role {
        Role::Serve => 0,
        Role::Train => 1,
        Role::Quantize => 2,
        Role::Measure => 3,
    }
}

/// The payload of [`FrameKind::Pong`]: what the plugin's thread is doing, a count that grows with everything it gets done, and whether
/// the process, which runs behind all others, waited for a processor more than it ran since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pulse {
    pub(crate) activity: u64,
    pub(crate) operation: Operation,
    pub(crate) is_starved: bool,
}

impl Pulse {
    pub(crate) fn encode(self) -> [u8; 10] {
        let mut out = [0; 10];
        out[0] = self.operation as u8;
        out[1..9].copy_from_slice(&self.activity.to_le_bytes());
        out[9] = u8::from(self.is_starved);
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        let operation = payload
            .first()
            .and_then(|byte| Operation::from_byte(*byte))
            .ok_or(FrameError::Short)?;
        Ok(Self {
            operation,
            activity: u64_at(payload, 1).ok_or(FrameError::Short)?,
            is_starved: *payload.get(9).ok_or(FrameError::Short)? != 0,
        })
    }
}

/// One event as it travels: 28 bytes, then text, then detail. Several make one [`FrameKind::Events`] frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EventRecord<'a> {
    pub(crate) sequence: u64,
    pub(crate) kind: u32,
    pub(crate) token: u32,
    pub(crate) logprob: f32,
    pub(crate) text: &'a [u8],
    pub(crate) detail: &'a [u8],
}

impl<'a> EventRecord<'a> {
    const HEADER_BYTES: usize = 28;

    /// Appends the event to a payload. The caller has bounded both lengths.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.token.to_le_bytes());
        out.extend_from_slice(&self.logprob.to_le_bytes());
        out.extend_from_slice(&(self.text.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.detail.len() as u32).to_le_bytes());
        out.extend_from_slice(self.text);
        out.extend_from_slice(self.detail);
    }

    /// Takes the first event off a payload.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        let word = |at: usize| u32_at(payload, at).ok_or(FrameError::Short);
        let sequence = u64_at(payload, 0).ok_or(FrameError::Short)?;
        let (kind, token, logprob) = (word(8)?, word(12)?, f32::from_bits(word(16)?));
        let (text_bytes, detail_bytes) = (word(20)? as usize, word(24)? as usize);
        let rest = payload.get(Self::HEADER_BYTES..).ok_or(FrameError::Short)?;
        let (text, rest) = rest.split_at_checked(text_bytes).ok_or(FrameError::Short)?;
        let (detail, rest) = rest.split_at_checked(detail_bytes).ok_or(FrameError::Short)?;
        Ok((
            Self {
                sequence,
                kind,
                token,
                logprob,
                text,
                detail,
            },
            rest,
        ))
    }
}

/// Returns the little-endian u64 at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_every_other_start_is_refused() {
        let frame = encode(FrameKind::Call, 7, &[b"ab", b"c"]).unwrap();
        let header: [u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        assert_eq!(
            decode_header(&header),
            Ok(Header {
                kind: FrameKind::Call,
                payload_bytes: 3,
                id: 7
            })
        );
        assert_eq!(&frame[HEADER_BYTES..], b"abc");
        for (at, byte, expected) in [
            (0, b'X', FrameError::NoFrame([b'X', FRAME_VERSION, 2, 0])),
            (1, 9, FrameError::Version { found: 9 }),
            (2, 99, FrameError::NoFrame([b'W', FRAME_VERSION, 99, 0])),
            (7, 0xff, FrameError::TooLong { bytes: 0xff00_0003 }),
        ] {
            let mut bad = header;
            bad[at] = byte;
            assert_eq!(decode_header(&bad), Err(expected), "byte {at}");
        }
    }

    #[test]
    fn every_operation_survives_its_byte() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_byte(operation as u8), Some(operation));
        }
        assert_eq!(Operation::from_byte(Operation::ALL.len() as u8), None);
    }

    #[test]
    fn cut_payloads_are_short_and_never_panic() {
        let record = EventRecord {
            sequence: 1,
            kind: 2,
            token: 3,
            logprob: 0.5,
            text: b"text",
            detail: b"detail",
        };
        let mut payload = Vec::new();
        record.encode_into(&mut payload);
        assert_eq!(EventRecord::decode(&payload), Ok((record, &[][..])));
        for cut in 0..payload.len() {
            assert_eq!(
                EventRecord::decode(&payload[..cut]),
                Err(FrameError::Short),
                "cut at {cut}"
            );
        }
        let call = CallHeader {
            operation: Operation::Load,
            model: 5,
            tokens_max: 6,
        };
        assert_eq!(CallHeader::decode(&call.encode()), Ok((call, &[][..])));
        assert_eq!(CallHeader::decode(&call.encode()[..16]), Err(FrameError::Short));
        let pulse = Pulse {
            activity: 8,
            operation: Operation::Step,
            is_starved: true,
        };
        assert_eq!(Pulse::decode(&pulse.encode()), Ok(pulse));
        assert_eq!(Pulse::decode(&pulse.encode()[..9]), Err(FrameError::Short));
    }
}
