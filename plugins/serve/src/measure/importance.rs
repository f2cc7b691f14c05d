//! How much each column of each matrix matters: the sum of squares of what it was multiplied by, over all tokens of the text.
//!
//! Source: llama.cpp's `llama-imatrix`, whose files these are: the matrices of the blocks, without the head.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use witness_diagnostics::{Diagnostic, Kind};
use witness_formats::imatrix::{Imatrix, ImatrixForm, Importance};
use witness_model::lora::{Module, Site};
use witness_model::{Adapter, Observe, SequenceStep};
use witness_plugin_protocol::{MeasureEvent, MeasureReply};

use super::pieces::Pieces;
use super::{Watch, stop_if_asked};
use crate::model::Loaded;
use crate::step::CHUNK_TOKENS;

/// Squares so far, by layer and site.
#[derive(Default)]
struct Squares {
    by_module: Mutex<BTreeMap<Module, Sums>>,
}

#[derive(Default)]
struct Sums {
    squares: Vec<f64>,
    n_rows: u64,
}

impl Observe for Squares {
    fn see(&self, module: Module, x: &[f32], n_columns: usize) {
        if name_of(module).is_none() || n_columns == 0 {
            return;
        }
        let mut by_module = self.by_module.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = by_module.entry(module).or_default();
        sums.squares.resize(n_columns, 0.0);
        for row in x.chunks_exact(n_columns) {
            for (sum, &number) in sums.squares.iter_mut().zip(row) {
                *sum += f64::from(number) * f64::from(number);
            }
            sums.n_rows += 1;
        }
    }
}

/// Returns the form that a request means.
pub(super) fn form(is_dat: bool) -> ImatrixForm {
    match is_dat {
        true => ImatrixForm::Dat,
        false => ImatrixForm::Gguf,
    }
}

/// Runs the text and writes the file.
pub(super) fn run(
    loaded: &Loaded,
    adapter: Option<&Adapter>,
    pieces: &Pieces,
    file: &Path,
    form: ImatrixForm,
    watch: &mut dyn Watch,
) -> Result<MeasureReply, Diagnostic> {
    let Some(model) = loaded.graph() else {
        return Err(Diagnostic::new(
            "witness::serve::measure_unsupported",
            Kind::Unsupported,
            format!(
                "importance cannot be measured on models of architecture `{}`",
                loaded.info().architecture
            ),
        )
        .hint(format!(
            "it is measured on {}; for others llama.cpp's `llama-imatrix` makes a file that `--imatrix` reads",
            witness_model::config::family_names().join(", ")
        )));
    };
    let squares = Squares::default();
    for index in 0..pieces.len() {
        let piece = pieces.get(index);
        let mut cache = model.new_cache(piece.len());
        for tokens in piece.chunks(CHUNK_TOKENS) {
            stop_if_asked(watch)?;
            let mut batch = [SequenceStep {
                tokens,
                cache: &mut cache,
                adapter,
                n_logits: 0,
            }];
            loaded.on_threads(|| model.forward_observed(&mut batch, Some(&squares)).map(drop))?;
        }
        watch.tell(&MeasureEvent::Progress {
            n_chunks: index as u64 + 1,
            perplexity: None,
            divergence: None,
        });
    }
    let imatrix = imatrix(squares, pieces)?;
    File::create_new(file)
        .map_err(|error| cannot_write(&error))
        .and_then(|created| {
            imatrix.write(form, BufWriter::new(&created))?;
            created.sync_all().map_err(|error| cannot_write(&error))
        })?;
    Ok(MeasureReply {
        n_matrices: imatrix.tensors.len() as u64,
        ..MeasureReply::default()
    })
}

fn imatrix(squares: Squares, pieces: &Pieces) -> Result<Imatrix, Diagnostic> {
    let mut imatrix = Imatrix {
        datasets: vec![pieces.name.clone()],
        n_chunks: u32::try_from(pieces.len()).unwrap_or(u32::MAX),
        chunk_tokens: u32::try_from(pieces.n_context).unwrap_or(u32::MAX),
        ..Imatrix::default()
    };
    for (module, sums) in squares.by_module.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let Some(name) = name_of(module) else { continue };
        if sums.squares.iter().any(|sum| !sum.is_finite()) {
            return Err(Diagnostic::new(
                "witness::serve::not_finite",
                Kind::Damaged,
                format!("what goes into `{name}` is not numbers"),
            )
            .hint("the weights are probably damaged; run `witness fsck` and create the model again"));
        }
        let importance = Importance {
            sums: sums.squares.iter().map(|&sum| sum as f32).collect(),
            counts: vec![sums.n_rows as f32],
        };
        imatrix.tensors.insert(name, importance);
    }
    Ok(imatrix)
}

/// Returns the GGUF name of a block's matrix.
fn name_of(module: Module) -> Option<String> {
    let Module::Linear { layer, site } = module else {
        return None;
    };
    let site = match site {
        Site::Query => "attn_q",
        Site::Key => "attn_k",
        Site::Value => "attn_v",
        Site::Output => "attn_output",
        Site::Gate => "ffn_gate",
        Site::Up => "ffn_up",
        Site::Down => "ffn_down",
    };
    Some(format!("blk.{layer}.{site}.weight"))
}

fn cannot_write(error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(
        "witness::serve::measure_file",
        Kind::Environment,
        "the importance matrix cannot be written",
    )
    .cause(error.to_string())
    .hint("make room on the store's disk")
}
