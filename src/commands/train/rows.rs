//! The rows of a run: files found, every row checked before anything starts, stored where the daemon reads them.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use witness_api::{DataFile, TrainRequest};
use witness_client::Client;
use witness_dataset::scan::{BadRows, Duplicates};
use witness_dataset::{DatasetError, Report, ScanOptions, Sources, scan};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::TrainPlan;
use witness_recipe::{DataSource, RowFields};

use super::order::Order;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// One file of rows.
struct RowFile {
    /// As people call it.
    name: String,
    /// Where its rows lie, in a shape that is read here.
    path: PathBuf,
}

/// The rows of a run.
pub(crate) struct Rows {
    data: Vec<RowFile>,
    validation: Vec<RowFile>,
    /// Rewritten files; removed with this value.
    _rewritten: tempfile::TempDir,
}

impl Rows {
    /// Finds the files, brings them to a shape that is read, and checks each row.
    pub(crate) fn find(order: &Order) -> Outcome<Self> {
        let folder = tempfile::tempdir().map_err(|error| {
            Diagnostic::new(
                "witness::cli::rows",
                Kind::Environment,
                "no temporary folder can be made",
            )
            .cause(error.to_string())
            .hint("is the disk full? `TMPDIR` names another place")
        })?;
        let settings = &order.recipe.settings;
        let options = ScanOptions {
            bad_rows: BadRows::skipped_if(settings.skip_bad),
            duplicates: Duplicates::dropped_if(settings.drop_duplicates),
            ..ScanOptions::default()
        };
        let mut parts = [Vec::new(), Vec::new()];
        for (part, (sources, is_validation)) in parts
            .iter_mut()
            .zip([(&order.recipe.data, false), (&order.recipe.validation, true)])
        {
            *part = files(order, sources, is_validation, folder.path())?;
            check(part, &options)?;
        }
        let [data, validation] = parts;
        Ok(Self {
            data,
            validation,
            _rewritten: folder,
        })
    }

    /// Stores them. Faults are told with the names that the person gave.
    pub(crate) fn store(
        &self,
        context: &Context,
        client: &Client,
        bars: &Bars,
    ) -> Outcome<(Vec<DataFile>, Vec<DataFile>)> {
        Ok((
            store(context, client, bars, &self.data)?,
            store(context, client, bars, &self.validation)?,
        ))
    }
}

fn store(context: &Context, client: &Client, bars: &Bars, files: &[RowFile]) -> Outcome<Vec<DataFile>> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let mut shown: Option<(usize, indicatif::ProgressBar)> = None;
    let stored = context.wait(client.store_data(&paths, false, &mut |index, state| {
        if !matches!(&shown, Some((known, _)) if *known == index) {
            if let Some((_, bar)) = shown.take() {
                bar.finish_and_clear();
            }
            shown = Some((
                index,
                bars.bytes(&format!("{} {}", state.phase, files[index].name), state.total_bytes),
            ));
        }
        if let Some((_, bar)) = &shown {
            bar.set_position(state.done_bytes);
        }
    }))?;
    if let Some((_, bar)) = shown {
        bar.finish_and_clear();
    }
    let named = stored.into_iter().zip(files).map(|(stored, file)| DataFile {
        name: file.name.clone(),
        ..stored
    });
    Ok(named.collect())
}

/// Finds the files of each source, in order; a file that was named before is read once.
fn files(order: &Order, sources: &[DataSource], is_validation: bool, folder: &Path) -> Outcome<Vec<RowFile>> {
    let mut found: Vec<RowFile> = Vec::new();
    let mut seen = Vec::new();
    for source in sources {
        let places = order.places_of_rows(&source.path, is_validation)?;
        for path in sources_at(&source.path, &places)?.files {
            let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
            if seen.contains(&identity) {
                output::note(&format!("`{}` was named twice and is read once", path.display()));
                continue;
            }
            seen.push(identity);
            let name = path.display().to_string();
            let path = match source.fields.is_default() {
                true => path,
                false => {
                    let target = folder.join(format!(
                        "{}{}.jsonl",
                        if is_validation { "v" } else { "d" },
                        found.len()
                    ));
                    rewrite(&path, &target, &source.fields)?;
                    target
                }
            };
            found.push(RowFile { name, path });
        }
    }
    Ok(found)
}

/// Finds the files at the first of the places that has any.
fn sources_at(written: &str, places: &[PathBuf]) -> Outcome<Sources> {
    let mut refusal = None;
    for place in places {
        match Sources::find(&[place]) {
            Ok(sources) => return Ok(sources),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let refusal = refusal.map_or_else(
        || {
            Diagnostic::new(
                "witness::cli::rows",
                Kind::NotFound,
                format!("`{written}` leads nowhere"),
            )
        },
        Diagnostic::from,
    );
    // A data set of a hub has the form of a relative path of two parts, and is what recipes of other programs often name.
    let is_hub =
        written.split('/').count() == 2 && !written.starts_with(['.', '/', '~']) && !written.contains(['*', '.']);
    Err(match is_hub {
        true => refusal.hint("a data set of a hub has to be on this machine: name its JSONL files"),
        false => refusal,
    })
}

/// Writes the rows of a file in the shape that is read here, line for line, so that faults keep their lines.
fn rewrite(source: &Path, target: &Path, fields: &RowFields) -> Outcome {
    let failed = |path: &Path, error: std::io::Error| {
        Diagnostic::new(
            "witness::cli::rows",
            Kind::Environment,
            format!("`{}` cannot be rewritten", path.display()),
        )
        .cause(error.to_string())
        .hint("is the disk full?")
    };
    let reader = std::fs::File::open(source).map_err(|error| failed(source, error))?;
    let writer = std::fs::File::create(target).map_err(|error| failed(target, error))?;
    let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader
            .read_until(b'\n', &mut line)
            .map_err(|error| failed(source, error))?
            == 0
        {
            break;
        }
        // What is no JSON is told when it is read.
        let bytes = match serde_json::from_slice::<Value>(&line) {
            Ok(row) => format!("{}\n", fields.apply(row)).into_bytes(),
            Err(_) => line.clone(),
        };
        writer.write_all(&bytes).map_err(|error| failed(target, error))?;
    }
    writer.flush().map_err(|error| failed(target, error))
}

fn check(files: &[RowFile], options: &ScanOptions) -> Outcome {
    if files.is_empty() {
        return Ok(());
    }
    let sources = Sources::named(files.iter().map(|file| (file.name.clone(), file.path.clone())));
    let report = scan(&sources, options, |_| Ok(())).map_err(explain)?;
    told(&report);
    if report.rows == 0 {
        return Err(Diagnostic::from(DatasetError::NoRows {
            files: sources.files.len(),
        }));
    }
    Ok(())
}

/// Says what was passed over.
fn told(report: &Report) {
    for (count, what) in [
        (
            report.bad,
            "bad rows are left out; `witness data validate` says what is wrong with them",
        ),
        (report.dropped, "rows that are exactly an earlier one are left out"),
    ] {
        if count > 0 {
            output::note(&format!("{count} {what}"));
        }
    }
}

/// Says how to train in spite of bad rows.
fn explain(error: DatasetError) -> Diagnostic {
    let refusal = Diagnostic::from(error);
    match refusal.kind == Kind::Invalid && !refusal.hints.iter().any(|hint| hint.contains("--skip-bad")) {
        true => refusal.hint("`--skip-bad` leaves such rows out and counts them"),
        false => refusal,
    }
}

/// Asks the daemon what a model would be taught by these files: the plan of a run that is not made.
pub(crate) fn rows_in(context: &Context, order: &mut Order, preview: Vec<u64>) -> Outcome<TrainPlan> {
    let request = TrainRequest {
        preview,
        ..super::prepare(context, order)?
    };
    context
        .wait(context.client.train_plan(&request))
        .map_err(|refusal| super::explain(context, &request, refusal))
}

/// Returns counts of rows and tokens as a sentence: `22 rows, 5210 tokens, 1804 of them learned`.
pub(crate) fn plan_text(rows: &witness_plugin_protocol::RowCounts) -> String {
    let plural = if rows.n_rows == 1 { "" } else { "s" };
    let mut text = format!(
        "{} row{plural}, {} tokens, {} of them learned, {} in the longest",
        rows.n_rows, rows.n_tokens, rows.n_targets, rows.tokens_max
    );
    for (count, what) in [
        (rows.n_bad, "bad"),
        (rows.n_without_target, "without a token to learn"),
        (rows.n_dropped, "too long and left out"),
        (rows.n_truncated, "too long and cut"),
    ] {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    if rows.n_tokens_lost > 0 {
        text += &format!(" ({} tokens lost)", rows.n_tokens_lost);
    }
    text
}
