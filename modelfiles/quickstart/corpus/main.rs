//! Writes the data of the quick start: `cargo run --example quickstart-corpus -- DIRECTORY [TEXTS]`.
//!
//! `base.jsonl` (plain text and small talk) teaches the base, `chats.jsonl` the adapter; `held-out.jsonl` holds the same questions in
//! words that are never taught. The same bytes each time.

#[path = "mod.rs"]
#[expect(dead_code, reason = "this program only generates")]
mod corpus;

use std::io::Write;
use std::path::Path;

use corpus::generate::{Chat, Corpus, SEED};
use serde_json::{Value, json};

/// Texts for the base, 6.8 MB.
const N_TEXTS: usize = 24_000;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = Path::new(arguments.first().map_or("target/quickstart", String::as_str));
    let n_texts = arguments.get(1).and_then(|n| n.parse().ok()).unwrap_or(N_TEXTS);
    std::fs::create_dir_all(directory)?;
    let corpus = Corpus::draw(SEED, n_texts);
    let texts = corpus.texts.iter().map(|text| json!({ "text": text }));
    let small_talk = corpus.small_talk.iter().map(Chat::row);
    write(&directory.join("base.jsonl"), texts)?;
    write(&directory.join("small-talk.jsonl"), small_talk)?;
    write(&directory.join("chats.jsonl"), corpus.chats.iter().map(Chat::row))?;
    write(&directory.join("held-out.jsonl"), corpus.held_out.iter().map(Chat::row))
}

fn write(path: &Path, rows: impl Iterator<Item = Value>) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut n_rows = 0;
    for row in rows {
        writeln!(out, "{row}")?;
        n_rows += 1;
    }
    out.flush()?;
    println!(
        "{}: {n_rows} rows, {} bytes",
        path.display(),
        std::fs::metadata(path)?.len()
    );
    Ok(())
}
