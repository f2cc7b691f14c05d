//! Prints how long a tokenizer takes to load and to encode: `cargo run --release -p witness-tokenizer --example figures -- TEXT FILE..`,
//! each FILE a GGUF or a `tokenizer.json`. Medians of five runs.

use std::error::Error;
use std::path::Path;
use std::time::Instant;
use witness_formats::gguf::Gguf;
use witness_tokenizer::{Encode, HfFiles, Tokenizer};

const RUNS: usize = 5;

fn load(path: &Path) -> Result<Tokenizer, Box<dyn Error>> {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return Ok(Tokenizer::from_gguf(&Gguf::open_file(path)?)?);
    }
    let bytes = std::fs::read(path)?;
    Ok(Tokenizer::from_hf_bytes(HfFiles {
        tokenizer: &bytes,
        ..HfFiles::default()
    })?)
}

/// Runs `work` a few times; returns its last result and the median of the milliseconds.
fn timed<T>(mut work: impl FnMut() -> Result<T, Box<dyn Error>>) -> Result<(T, f64), Box<dyn Error>> {
    let mut times = Vec::new();
    let mut result = work();
    for _ in 0..RUNS {
        let start = Instant::now();
        result = work();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok((result?, times[RUNS / 2]))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = std::fs::read_to_string(arguments.next().ok_or("usage: figures TEXT FILE..")?)?;
    let text: String = text.chars().take(1_000_000).collect();
    let texts = [
        ("prose", text),
        ("one letter", "a".repeat(1_000_000)),
        ("spaces", " ".repeat(1_000_000)),
        ("lines", "\n".repeat(1_000_000)),
        ("digits", "7".repeat(1_000_000)),
        ("ideographs", "世界你好".repeat(83_333)),
    ];
    for file in arguments {
        let (tokenizer, ms) = timed(|| load(Path::new(&file)))?;
        println!("{file}: {} tokens, loaded in {ms:.0} ms", tokenizer.vocab_size());
        for (name, text) in &texts {
            let (tokens, ms) = timed(|| Ok(tokenizer.encode(text, Encode::default())?))?;
            let (_, back) = timed(|| Ok(tokenizer.decode(&tokens, false)))?;
            println!(
                "  {name}: 1 MB to {} tokens in {ms:.0} ms, back in {back:.0} ms",
                tokens.len()
            );
        }
    }
    Ok(())
}
