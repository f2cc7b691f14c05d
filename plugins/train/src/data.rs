//! The rows of a run: read, shared out between learning and measuring, encoded, counted.
//!
//! Memory: 5 bytes a token, and the rows' texts while they are encoded.

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use witness_dataset::scan::{BadRows, Duplicates};
use witness_dataset::{Dataset, Likeness, ScanOptions, Severity, Sources, SplitOptions, leakage, load, split};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{FileRef, PreviewPiece, PreviewRow, RowCounts, TrainRequest, TrainSettings};
use witness_tokenizer::Tokenizer;

use crate::encode::{Encoded, Encoder, Outcome};
use crate::progress::IsStopped;

/// Bars of a histogram of lengths at most.
const BARS_MAX: u64 = 24;

/// Rows encoded between two looks at whether to stop.
const ROWS_A_LOOK: usize = 256;

/// Places that a warning names at most.
const PLACES_MAX: usize = 3;

/// Rows as they were read, with what calls them by name.
pub(crate) struct Source {
    sources: Sources,
    dataset: Dataset,
}

impl Source {
    fn read(files: &[FileRef], settings: &TrainSettings) -> Result<Self, Diagnostic> {
        let sources = Sources::named(files.iter().map(|file| (file.name.clone(), file.path.clone())));
        let options = ScanOptions {
            bad_rows: BadRows::skipped_if(settings.skip_bad),
            duplicates: Duplicates::dropped_if(settings.drop_duplicates),
            ..ScanOptions::default()
        };
        let dataset = load(&sources, &options)?;
        Ok(Self { sources, dataset })
    }

    fn place(&self, row: usize) -> String {
        let at = self.dataset.at[row];
        format!("{}:{}", self.sources.name(at.file as usize), at.line)
    }
}

/// One sequence to learn or measure: a row, or a piece of a long text.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its tokens.
    pub(crate) encoded: Encoded,
    /// Its file and line.
    pub(crate) place: std::sync::Arc<str>,
}

/// The rows of one purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// What is used, in order.
    pub(crate) samples: Vec<Sample>,
    /// What became of the rows.
    pub(crate) counts: RowCounts,
}

impl Part {
    /// Returns the tokens of each sample.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.encoded.ids.len()).collect()
    }
}

/// All rows of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Data {
    /// What is learned.
    pub(crate) train: Part,
    /// What is measured.
    pub(crate) validation: Part,
    /// What should be known about the rows.
    pub(crate) warnings: Vec<String>,
    /// SHA-256 of what the rows teach.
    pub(crate) digest: String,
    /// The rows that were asked to be shown.
    pub(crate) preview: Vec<PreviewRow>,
}

/// All rows as they were read.
pub(crate) struct Read {
    /// What is learned, and measured where nothing else is.
    data: Source,
    /// What is measured, where files of its own hold it.
    apart: Option<Source>,
}

impl Read {
    /// Reads all rows.
    pub(crate) fn rows(request: &TrainRequest) -> Result<Self, Diagnostic> {
        let settings = &request.settings;
        Ok(Self {
            data: Source::read(&request.data, settings)?,
            apart: match request.validation.is_empty() {
                true => None,
                false => Some(Source::read(&request.validation, settings)?),
            },
        })
    }

    /// Returns everything that is said in the rows to learn from.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let rows = self.data.dataset.rows.iter();
        rows.flat_map(|row| row.conversation.parts().map(|(_, text)| text))
    }
}

/// Encodes all rows. Returns nothing when it is told to stop.
pub(crate) fn prepare(
    request: &TrainRequest,
    read: &Read,
    encoder: &Encoder<'_>,
    tokenizer: &Tokenizer,
    is_stopped: IsStopped<'_>,
) -> Result<Option<Data>, Diagnostic> {
    let settings = &request.settings;
    let Read { data, apart } = read;
    let n_rows = data.dataset.rows.len();
    let (learned, measured) = match apart {
        Some(_) => ((0..n_rows as u32).collect(), Vec::new()),
        None => shares(n_rows, settings)?,
    };
    let measured_rows: Vec<u32> = match apart {
        Some(apart) => (0..apart.dataset.rows.len() as u32).collect(),
        None => measured.clone(),
    };
    let measured_in = apart.as_ref().unwrap_or(data);
    let context = Context {
        encoder,
        skip_bad: settings.skip_bad,
        is_stopped,
    };
    let Some((mut train, train_ends)) = context.part(data, &learned)? else {
        return Ok(None);
    };
    let Some((mut validation, _)) = context.part(measured_in, &measured_rows)? else {
        return Ok(None);
    };
    // Rows that could not be read at all stand in no part; they are told with those that are learned from.
    train.counts.n_bad += data.dataset.report.bad;
    if let Some(apart) = apart {
        validation.counts.n_bad += apart.dataset.report.bad;
    }
    if train.samples.is_empty() {
        return Err(nothing_left(&train.counts, encoder.sequence_len()));
    }
    let mut warnings = Vec::new();
    told_by_reading(&data.dataset, "the data", &mut warnings);
    if let Some(apart) = apart {
        told_by_reading(&apart.dataset, "the validation data", &mut warnings);
    }
    told_by_encoding(&train.counts, "", encoder.sequence_len(), &mut warnings);
    told_by_encoding(&validation.counts, "validation ", encoder.sequence_len(), &mut warnings);
    if train_ends > 0 {
        warnings.push(format!(
            "the chat template ends {train_ends} rows without an end token; `{}` was put behind them so that the model learns to stop",
            tokenizer.eos_token()
        ));
    }
    told_by_leaks(data, &learned, measured_in, &measured_rows, &mut warnings);
    let preview = request.preview.iter();
    let preview = preview.map(|row| show(*row, data, encoder, tokenizer));
    Ok(Some(Data {
        preview: preview.collect::<Result<_, _>>()?,
        digest: digest(&data.dataset, apart.as_ref().map(|apart| &apart.dataset)),
        train,
        validation,
        warnings,
    }))
}

/// Shares rows out as the guide's Python does. `val_set_size` from 1 on is a number of rows, as Axolotl has it.
fn shares(n_rows: usize, settings: &TrainSettings) -> Result<(Vec<u32>, Vec<u32>), Diagnostic> {
    let size = settings.val_set_size;
    let is_count = size >= 1.0 && size.fract() == 0.0 && size < n_rows as f64;
    if !(is_count || (0.0..1.0).contains(&size)) {
        let wanted = format!("a share from 0 to below 1, or a number of rows below {n_rows}");
        return Err(crate::error::setting("val_set_size", size, wanted));
    }
    if size == 0.0 {
        return Ok(((0..n_rows as u32).collect(), Vec::new()));
    }
    let train_fraction = if is_count { 1.0 } else { 1.0 - size };
    let options = SplitOptions {
        seed: settings.seed,
        train_fraction,
    };
    let mut parts = split(n_rows, &options)?;
    if is_count {
        parts.validation = parts.train.split_off(n_rows - size as usize);
    }
    if parts.train.is_empty() {
        // A share of one row is no row: better learned than only measured.
        parts.train = std::mem::take(&mut parts.validation);
    }
    Ok((parts.train, parts.validation))
}

struct Context<'a> {
    encoder: &'a Encoder<'a>,
    skip_bad: bool,
    is_stopped: IsStopped<'a>,
}

impl Context<'_> {
    /// Encodes rows in order; also returns how many of them got an end that the template does not write.
    fn part(&self, source: &Source, rows: &[u32]) -> Result<Option<(Part, u64)>, Diagnostic> {
        let (mut part, mut n_ends) = (Part::default(), 0);
        for rows in rows.chunks(ROWS_A_LOOK) {
            if (self.is_stopped)() {
                return Ok(None);
            }
            let outcomes: Vec<Result<Outcome, Diagnostic>> = rows
                .par_iter()
                .map(|row| self.encoder.encode(&source.dataset.rows[*row as usize].conversation))
                .collect();
            for (row, outcome) in rows.iter().zip(outcomes) {
                match outcome {
                    Ok(outcome) => n_ends += part.take(outcome, source.place(*row as usize)),
                    Err(_) if self.skip_bad => part.counts.n_bad += 1,
                    Err(diagnostic) => return Err(at_place(diagnostic, &source.place(*row as usize))),
                }
            }
        }
        part.count();
        Ok(Some((part, n_ends)))
    }
}

impl Part {
    /// Takes what became of a row; returns 1 if it got an end that the template does not write.
    fn take(&mut self, outcome: Outcome, place: String) -> u64 {
        match outcome {
            Outcome::TooLong(_) => self.counts.n_dropped += 1,
            Outcome::NothingToLearn(_) => self.counts.n_without_target += 1,
            Outcome::Used {
                pieces,
                n_cut,
                end_added,
            } => {
                self.counts.n_rows += 1;
                self.counts.n_truncated += u64::from(n_cut > 0);
                self.counts.n_tokens_lost += n_cut as u64;
                let place: std::sync::Arc<str> = place.into();
                self.samples.extend(pieces.into_iter().map(|encoded| Sample {
                    encoded,
                    place: place.clone(),
                }));
                return u64::from(end_added);
            }
        }
        0
    }

    fn count(&mut self) {
        let lengths = self.lengths();
        let n_targets: usize = self.samples.iter().map(|sample| sample.encoded.n_targets()).sum();
        self.counts.n_tokens = lengths.iter().sum::<usize>() as u64;
        self.counts.n_targets = n_targets as u64;
        self.counts.tokens_max = lengths.iter().max().copied().unwrap_or(0) as u64;
        self.counts.histogram = histogram(&lengths);
    }
}

fn histogram(lengths: &[usize]) -> Vec<[u64; 2]> {
    let Some((least, most)) = lengths.iter().min().zip(lengths.iter().max()) else {
        return Vec::new();
    };
    let (least, most) = (*least as u64, *most as u64);
    let width = (most - least + 1).div_ceil(BARS_MAX);
    let n_bars = (most - least) / width + 1;
    let mut bars: Vec<[u64; 2]> = (0..n_bars).map(|bar| [least + bar * width, 0]).collect();
    for length in lengths {
        let bar = (*length as u64 - least) / width;
        bars[bar as usize][1] += 1;
    }
    bars
}

fn at_place(mut diagnostic: Diagnostic, place: &str) -> Diagnostic {
    diagnostic.message = format!("{place}: {}", diagnostic.message);
    diagnostic.hint("`skip_bad: true` leaves out rows that cannot be used")
}

fn nothing_left(counts: &RowCounts, sequence_len: usize) -> Diagnostic {
    let mut diagnostic = Diagnostic::new("witness::train::no_rows", Kind::Invalid, "no row is left to learn from");
    for (n, what) in [
        (counts.n_bad, "cannot be used".to_owned()),
        (
            counts.n_dropped,
            format!("are longer than `sequence_len` = {sequence_len}"),
        ),
        (counts.n_without_target, "hold nothing that is to be learned".to_owned()),
    ] {
        if n > 0 {
            diagnostic = diagnostic.cause(format!("{n} rows {what}"));
        }
    }
    diagnostic
        .hint("raise `sequence_len`, or set `excess_length: truncate`, or look at the rows with `witness data preview`")
}

fn told_by_reading(dataset: &Dataset, what: &str, warnings: &mut Vec<String>) {
    let report = &dataset.report;
    if report.bad > 0 {
        warnings.push(format!(
            "{} rows of {what} cannot be used and are passed over",
            report.bad
        ));
    }
    if report.duplicates > report.dropped {
        let n = report.duplicates - report.dropped;
        warnings.push(format!(
            "{n} rows of {what} say exactly what an earlier one does; `drop_duplicates: true` leaves them out"
        ));
    }
    let others = report.faults.iter().filter(|fault| {
        let code = fault.code.name();
        fault.severity == Severity::Warning && code != "duplicate" && code != "blank_line"
    });
    let mut others = others.map(ToString::to_string);
    warnings.extend(others.by_ref().take(PLACES_MAX));
    let n_more = others.count();
    if n_more > 0 {
        warnings.push(format!(
            "and {n_more} warnings more about {what}: see `witness data validate`"
        ));
    }
}

fn told_by_encoding(counts: &RowCounts, kind: &str, sequence_len: usize, warnings: &mut Vec<String>) {
    if counts.n_dropped > 0 {
        warnings.push(format!(
            "{} {kind}rows are longer than `sequence_len` = {sequence_len} tokens and are left out; `excess_length: truncate` cuts them instead",
            counts.n_dropped
        ));
    }
    if counts.n_truncated > 0 {
        warnings.push(format!(
            "{} {kind}rows are longer than `sequence_len` = {sequence_len} tokens and are cut: {} tokens are lost",
            counts.n_truncated, counts.n_tokens_lost
        ));
    }
    if counts.n_without_target > 0 {
        warnings.push(format!(
            "{} {kind}rows hold nothing that is to be learned and are left out",
            counts.n_without_target
        ));
    }
}

fn told_by_leaks(data: &Source, learned: &[u32], measured_in: &Source, measured: &[u32], warnings: &mut Vec<String>) {
    let prints = |source: &Source, rows: &[u32]| -> Vec<_> {
        rows.iter().map(|row| source.dataset.prints[*row as usize]).collect()
    };
    let leaks = leakage(&prints(data, learned), &prints(measured_in, measured));
    for (likeness, what) in [
        (Likeness::Exact, "are also learned, to the letter"),
        (Likeness::Normalised, "are also learned, but for case and white space"),
        (Likeness::Prompt, "ask what a learned row asks too"),
    ] {
        let of_kind: Vec<_> = leaks.iter().filter(|leak| leak.likeness == likeness).collect();
        if of_kind.is_empty() {
            continue;
        }
        let places = of_kind.iter().take(PLACES_MAX).map(|leak| {
            let validation = measured_in.place(measured[leak.validation] as usize);
            format!("{validation} as {}", data.place(learned[leak.train] as usize))
        });
        let places: Vec<String> = places.collect();
        let more = if of_kind.len() > PLACES_MAX { ", ..." } else { "" };
        warnings.push(format!(
            "{} validation rows {what} ({}{more}): their loss measures memory",
            of_kind.len(),
            places.join(", ")
        ));
    }
}

fn digest(data: &Dataset, validation: Option<&Dataset>) -> String {
    let Some(validation) = validation else {
        return format!("sha256:{}", data.report.digest);
    };
    let mut both = Sha256::new();
    both.update(&data.report.digest);
    both.update(&validation.report.digest);
    let hex: String = both.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Shows a row as the model is taught it, its pieces joined where a text was cut.
fn show(row: u64, data: &Source, encoder: &Encoder<'_>, tokenizer: &Tokenizer) -> Result<PreviewRow, Diagnostic> {
    let index = usize::try_from(row).ok().filter(|row| *row < data.dataset.rows.len());
    let Some(index) = index else {
        let message = format!("there is no row {row}: the data has {} rows", data.dataset.rows.len());
        return Err(Diagnostic::new("witness::train::no_such_row", Kind::NotFound, message)
            .hint("rows are numbered from 0, in the order of the files"));
    };
    let place = data.place(index);
    let outcome = encoder.encode(&data.dataset.rows[index].conversation);
    let (pieces, left_out) = match outcome.map_err(|diagnostic| at_place(diagnostic, &place))? {
        Outcome::Used { pieces, .. } => (pieces, None),
        Outcome::TooLong(encoded) => {
            let most = encoder.sequence_len();
            let why = format!("it has {} tokens, a sequence has {most}", encoded.ids.len());
            (vec![encoded], Some(why))
        }
        Outcome::NothingToLearn(encoded) => (vec![encoded], Some("no token of it is to be learned".to_owned())),
    };
    Ok(PreviewRow {
        row,
        place,
        pieces: pieces.iter().flat_map(|piece| shown(piece, tokenizer)).collect(),
        n_tokens: pieces.iter().map(|piece| piece.ids.len() as u64).sum(),
        left_out,
    })
}

fn shown(encoded: &Encoded, tokenizer: &Tokenizer) -> Vec<PreviewPiece> {
    let mut stream = tokenizer.stream(false);
    let mut pieces: Vec<PreviewPiece> = Vec::new();
    for (at, id) in encoded.ids.iter().enumerate() {
        // The first token is never predicted, whatever its mark.
        let is_target = at > 0 && encoded.is_target[at];
        let text = stream.push(*id);
        match pieces.last_mut().filter(|piece| piece.is_target == is_target) {
            Some(piece) => {
                piece.text.push_str(&text);
                piece.ids.push(*id);
            }
            None => pieces.push(PreviewPiece {
                text: text.to_string(),
                ids: vec![*id],
                is_target,
            }),
        }
    }
    if let Some(piece) = pieces.last_mut() {
        piece.text.push_str(&stream.finish());
    }
    pieces
}
