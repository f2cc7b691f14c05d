//! Times the import of a file against `cp` followed by `sha256sum`, on the same file system, one after the other.
//!
//! ```text
//! cargo run --release -p witness-registry --example import -- [--bytes N] [--rounds N] [--dir DIR] [--link]
//! ```
//! Makes a file of N random-looking bytes (default 10^9) in DIR (default: the system's temporary directory), then measures in turn,
//! for each round: `cp` and `sha256sum` together, and the import into a fresh store, which ends with the bytes fsynced (`cp` leaves
//! that to the kernel). The source is in the page cache for both. Prints every figure, the medians and their ratio.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use witness_registry::{ImportOptions, OpenOptions, Registry};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    bytes: u64,
    rounds: usize,
    dir: PathBuf,
    link: bool,
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let source = dir.path().join("source.bin");
    write_random(&source, arguments.bytes)?;
    println!(
        "file: {} bytes, {} rounds, link: {}",
        arguments.bytes, arguments.rounds, arguments.link
    );
    println!(
        "{:>12} {:>12} {:>12} {:>12}",
        "cp s", "sha256sum s", "together s", "import s"
    );
    let (mut together, mut imports) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let copy = timed(|| run(Command::new("cp").arg(&source).arg(dir.path().join("copy.bin"))))?;
        let sum = timed(|| run(Command::new("sha256sum").arg(&source)))?;
        settle(&dir.path().join("copy.bin"))?;
        let import = timed(|| import(&source, &dir.path().join("store"), arguments.link))?;
        settle(&dir.path().join("store"))?;
        println!(
            "{:>12.3} {:>12.3} {:>12.3} {:>12.3}",
            s(copy),
            s(sum),
            s(copy + sum),
            s(import)
        );
        together.push(copy + sum);
        imports.push(import);
    }
    let (together, import) = (median(together), median(imports));
    println!(
        "median: cp then sha256sum {:.3} s, import {:.3} s, ratio {:.2}",
        s(together),
        s(import),
        s(together) / s(import)
    );
    Ok(())
}

fn import(source: &Path, store: &Path, link: bool) -> Result<(), Failure> {
    let registry = Registry::open(store, &OpenOptions::new("import example"))?;
    registry.import_file(
        source,
        ImportOptions {
            link,
            ..ImportOptions::default()
        },
    )?;
    Ok(())
}

/// Removes what a round made and waits for the disk, so that no round pays for the one before it.
fn settle(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        fs::remove_dir_all(path)?
    } else {
        fs::remove_file(path)?
    }
    run(&mut Command::new("sync"))
}

/// Writes bytes that no file system can compress: a xorshift generator.
fn write_random(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut left = bytes;
    while left > 0 {
        let block: Vec<u8> = (0..1 << 17)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        let now = left.min(block.len() as u64);
        file.write_all(&block[..usize::try_from(now).unwrap_or(block.len())])?;
        left -= now;
    }
    file.sync_all()
}

fn arguments() -> Result<Arguments, Failure> {
    let mut parsed = Arguments {
        bytes: 1_000_000_000,
        rounds: 5,
        dir: std::env::temp_dir(),
        link: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--bytes" => parsed.bytes = value()?.parse()?,
            "--rounds" => parsed.rounds = value()?.parse::<usize>()?.max(1),
            "--dir" => parsed.dir = value()?.into(),
            "--link" => parsed.link = true,
            _ => return Err(format!("unknown argument {argument}; see the head of this example").into()),
        }
    }
    Ok(parsed)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    match command.stdout(Stdio::null()).status()?.success() {
        true => Ok(()),
        false => Err(format!("{command:?} failed").into()),
    }
}

fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn s(time: Duration) -> f64 {
    time.as_secs_f64()
}
