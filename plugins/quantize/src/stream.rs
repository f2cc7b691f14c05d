//! All tensors of a file through all cores: some rows at a time are read, made numbers of, encoded, and written in order.
//!
//! ```text
//! wave: tasks of about TASK_NUMBERS numbers, on all threads   ->   a thread of its own that writes the wave before
//! ```
//! Memory: two waves of results and one of numbers, some megabytes a thread, whatever the model; pages of the source are given back as they are done with.
//! The limit is encoding (K types: some 130 million numbers a second and thread) or the disk.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::gguf::{Body, GgmlType, Writer};
use witness_quantization::encode;

use crate::error::{Result, cannot_write, of_tensor, stopped};
use crate::imatrix::Imatrix;
use crate::pieces::Piece;

/// How many numbers a task takes, about: 4 MiB of f32, long beside the start of a task and short beside a person's patience.
const TASK_NUMBERS: usize = 1 << 20;
/// Tasks of a wave for each thread: a tensor's last wave then leaves nobody idle for long.
const TASKS_A_THREAD: usize = 4;

/// Some rows of a piece.
struct Task<'a> {
    piece: &'a Piece,
    kind: GgmlType,
    rows: Range<usize>,
    importance: Option<&'a [f32]>,
}

/// Writes a file. `tell` gets the name of a tensor and the bytes of source that are done, now and then, and says whether to go on.
pub(crate) fn write(
    path: &Path,
    writer: Writer,
    pieces: &[Piece],
    kinds: &[GgmlType],
    imatrix: Option<&Imatrix>,
    tell: &mut dyn FnMut(&str, u64) -> bool,
) -> Result<()> {
    let failed = |error: std::io::Error| cannot_write(path, &error);
    let file = File::create(path).map_err(failed)?;
    let body = writer.begin(BufWriter::with_capacity(1 << 20, file))?;
    let n_tasks = TASKS_A_THREAD * rayon::current_num_threads();
    let body = std::thread::scope(|scope| {
        // One wave waits while one is written and one is made.
        let (waves, written) = sync_channel::<Vec<Vec<u8>>>(1);
        let writing = scope.spawn(move || -> Result<Body<BufWriter<File>>> {
            let mut body = body;
            for wave in written {
                for bytes in wave {
                    body.write(&bytes)?;
                }
            }
            Ok(body)
        });
        let made = make_waves(pieces, kinds, imatrix, n_tasks, tell, &mut |wave| {
            waves.send(wave).is_ok()
        });
        drop(waves);
        let body = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A disk that is full ends the writer first; what it says is the cause.
        match (made, body) {
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(()), Ok(body)) => Ok(body),
        }
    })?;
    let mut sink = body.finish()?;
    sink.flush().map_err(failed)?;
    sink.get_ref().sync_all().map_err(failed)
}

/// Makes the bytes of all tensors, wave by wave; ends early where nobody takes them any more.
fn make_waves(
    pieces: &[Piece],
    kinds: &[GgmlType],
    imatrix: Option<&Imatrix>,
    n_tasks: usize,
    tell: &mut dyn FnMut(&str, u64) -> bool,
    send: &mut dyn FnMut(Vec<Vec<u8>>) -> bool,
) -> Result<()> {
    let mut wave: Vec<Task<'_>> = Vec::new();
    let mut done_bytes = 0;
    let mut finish = |wave: &mut Vec<Task<'_>>| -> Result<bool> {
        let Some(last) = wave.last() else { return Ok(true) };
        let name = last.piece.name.as_str();
        let made: Result<Vec<Vec<u8>>> = wave.par_iter().map(Task::make).collect();
        done_bytes += wave.iter().map(Task::source_bytes).sum::<u64>();
        let goes_on = send(made?);
        if !tell(name, done_bytes) {
            return Err(stopped());
        }
        wave.clear();
        Ok(goes_on)
    };
    for (piece, kind) in pieces.iter().zip(kinds) {
        let importance = imatrix.and_then(|imatrix| imatrix.of(&piece.name));
        for task in tasks(piece, *kind, importance)? {
            wave.push(task);
            if wave.len() == n_tasks && !finish(&mut wave)? {
                return Ok(());
            }
        }
    }
    finish(&mut wave).map(drop)
}

/// Cuts a piece into tasks; none of them spans two experts, whose importance differs.
fn tasks<'a>(piece: &'a Piece, kind: GgmlType, importance: Option<&'a [f32]>) -> Result<Vec<Task<'a>>> {
    let (n_rows, n_columns) = (piece.n_rows(), piece.n_columns());
    let n_experts = if piece.shape.len() == 3 {
        piece.shape[0].max(1)
    } else {
        1
    };
    if let Some(importance) = importance.filter(|_| kind.is_quantized())
        && importance.len() != n_experts * n_columns
    {
        return Err(of_tensor(
            &piece.name,
            Diagnostic::new(
                "witness::quantize::imatrix_shape",
                Kind::Invalid,
                format!(
                    "the importance matrix has {} numbers for {n_experts} times {n_columns} columns",
                    importance.len()
                ),
            )
            .hint("it was made with another model: make one with this one"),
        ));
    }
    let rows_of_expert = n_rows / n_experts;
    let step = (TASK_NUMBERS / n_columns.max(1)).max(1);
    let mut tasks = Vec::new();
    for expert in 0..n_experts {
        let first = expert * rows_of_expert;
        for start in (first..first + rows_of_expert).step_by(step) {
            tasks.push(Task {
                piece,
                kind,
                rows: start..(start + step).min(first + rows_of_expert),
                importance: importance.map(|numbers| &numbers[expert * n_columns..(expert + 1) * n_columns]),
            });
        }
    }
    Ok(tasks)
}

impl Task<'_> {
    fn source_bytes(&self) -> u64 {
        let row_bytes = self.piece.kind.row_bytes(self.piece.n_columns()).unwrap_or(0);
        row_bytes * self.rows.len() as u64
    }

    fn make(&self) -> Result<Vec<u8>> {
        let made = self.bytes().map_err(|error| of_tensor(&self.piece.name, error));
        self.piece.release(self.rows.clone());
        made
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        if self.kind == self.piece.kind {
            return Ok(self.piece.rows(self.rows.clone())?.into_owned());
        }
        let numbers = self.piece.rows_f32(self.rows.clone())?;
        let n_columns = self.piece.n_columns();
        let row_bytes = self.kind.row_bytes(n_columns).unwrap_or(0);
        let mut bytes = vec![0; row_bytes as usize * self.rows.len()];
        encode(self.kind, &numbers, n_columns, self.importance, &mut bytes)?;
        Ok(bytes)
    }
}
