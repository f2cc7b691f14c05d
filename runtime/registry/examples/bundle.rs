//! Times a model's way into one file and out of it, and shows that memory does not grow with the model.
//!
//! ```text
//! cargo run --release -p witness-registry --example bundle -- [BYTES [ROUNDS [DIR]]]
//! ```
//! Makes a store with one blob of BYTES (default 10^9) in DIR (default: the system's temporary directory). Each round packs it, copies the bundle with `cp` and
//! `sync` for comparison, and unpacks it into a fresh store; every figure ends with the bytes on the disk. At the end: the most memory that the process had at
//! once, as Linux counts it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use witness_registry::bundle::{Bundle, PackOptions, Watch};
use witness_registry::{Layer, Manifest, ModelName, OpenOptions, Registry, media};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let bytes: u64 = arguments.next().map_or(Ok(1_000_000_000), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(directory)?;
    let source = Registry::open(directory.path().join("source"), &OpenOptions::new("example"))?;
    let name = ModelName::parse("large")?;
    store(&source, &name, bytes)?;
    let manifest = source.manifest_bytes(&name)?;
    let file = directory.path().join("large.witness.tar");
    println!(
        "{bytes} bytes, {rounds} rounds\n{:>10} {:>10} {:>10}",
        "pack s", "cp+sync s", "unpack s"
    );
    for _ in 0..rounds {
        let pack = timed(|| {
            let options = PackOptions {
                name: &name,
                program: "example",
                without_base: None,
                made: &[],
                replace: true,
            };
            source.pack(&manifest, &file, &options, Watch::default())?;
            Ok(())
        })?;
        let copy = timed(|| copy(&file, &directory.path().join("copy")))?;
        let target = directory.path().join("target");
        let unpack = timed(|| {
            let registry = Registry::open(&target, &OpenOptions::new("example"))?;
            Bundle::open(&file)?
                .unpack(&registry, Watch::default())?
                .publish(&registry, &name)?;
            Ok(())
        })?;
        std::fs::remove_dir_all(&target)?;
        println!("{pack:>10.3} {copy:>10.3} {unpack:>10.3}");
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    println!("{}", peak.unwrap_or("no figure of memory here"));
    Ok(())
}

fn store(registry: &Registry, name: &ModelName, bytes: u64) -> Result<(), Failure> {
    let mut writer = registry.begin_blob(None, Some(bytes))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = [0; 8192];
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let now = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        writer.write_all(&block[..now])?;
        left -= now as u64;
    }
    let weights = writer.commit()?;
    let config = registry.put_bytes(b"{}")?;
    let manifest = Manifest::new(
        Layer::of(media::CONFIG, &config),
        vec![Layer::of(media::MODEL, &weights)],
    );
    registry.write_manifest(name, &manifest)?;
    Ok(())
}

fn copy(source: &Path, target: &Path) -> Result<(), Failure> {
    let copied = Command::new("cp").arg(source).arg(target).status()?;
    let synced = Command::new("sync").arg(target).status()?;
    match copied.success() && synced.success() {
        true => Ok(std::fs::remove_file(target)?),
        false => Err("`cp` or `sync` did not end well".into()),
    }
}

fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}
