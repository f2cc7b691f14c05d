//! Times what a listing of models costs: `list` again and again, and the `generation` that a cache of it asks for.
//!
//! ```text
//! cargo run --release -p witness-registry --example listing -- [MODELS]
//! ```

use std::time::Instant;

use witness_registry::{Layer, Manifest, ModelName, OpenOptions, Registry, media};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let models: u32 = std::env::args().nth(1).map_or(Ok(100), |models| models.parse())?;
    let dir = tempfile::tempdir()?;
    let registry = Registry::open(dir.path(), &OpenOptions::new("listing example"))?;
    for model in 0..models {
        let config = registry.put_bytes(br#"{"model_format":"gguf"}"#)?;
        let weights = registry.put_bytes(format!("weights {model}").as_bytes())?;
        let layers = vec![Layer::of(media::MODEL, &weights)];
        registry.write_manifest(
            &ModelName::parse(&format!("model{model}"))?,
            &Manifest::new(Layer::of(media::CONFIG, &config), layers),
        )?;
    }
    let per_call_us = |calls: u32, call: &dyn Fn() -> usize| {
        call();
        let start = Instant::now();
        (0..calls).for_each(|_| {
            std::hint::black_box(call());
        });
        start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
    };
    let list = per_call_us(200, &|| registry.list().map_or(0, |entries| entries.len()));
    let generation = per_call_us(2_000_000, &|| usize::try_from(registry.generation()).unwrap_or(0));
    println!("{models} models: list {list:.1} us, generation {generation:.4} us (with its looks at the disk)");
    Ok(())
}
