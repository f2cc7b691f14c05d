//! Damaged and malicious files: every one ends in an error or a usable value, without a panic and in bounded memory.
//!
//! Method: from one valid file of each kind, every truncation (each byte of the first 4 KiB, then each KiB) and 10,000 seeded
//! mutations are opened and everything in them is looked at. An allocator counts what each thread holds; the peak of one opening is
//! asserted, so a length that is believed before it is checked fails here. Takes seconds because it writes and opens over 100,000
//! files; they lie in memory where the system has a place for that.
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use witness_formats::{
    FileSet, FormatError,
    adapter::{Adapter, BaseShape, Heads, PeftConfig},
    gguf::{Gguf, Value, rows::RowOrder},
    hf::{self, DecoderConfig, GenerationConfig, HfConfig, TokenizerConfig},
    safetensors::SafeTensors,
};

use crate::{counting::peak_of, support::*};

const MUTATIONS: usize = 10_000;
/// What opening one damaged small file may hold at most. The valid ones take below 100 KiB; patterns compile to up to 0.5 MiB each.
const PEAK_BYTES_MAX: isize = 4 * 1024 * 1024;

/// Damages one valid file in every way and lets `open` look at each result.
fn torture(valid: &[u8], seed: u64, is_text: bool, open: impl Fn(&[u8]) -> Result<(), FormatError>) {
    open(valid).expect("the file to damage is valid");
    let is_refused = |damaged: &[u8], what: &dyn Fn() -> String| {
        let (result, peak) = peak_of(|| open(damaged));
        assert!(peak < PEAK_BYTES_MAX, "{}: held {peak} bytes", what());
        result.is_err()
    };
    let lengths = (0..valid.len().min(4096)).chain((4096..valid.len()).step_by(1024));
    for length in lengths {
        is_refused(&valid[..length], &|| format!("cut to {length}"));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut n_errors = 0;
    for number in 0..MUTATIONS {
        let mut damaged = valid.to_vec();
        for _ in 0..random.random_range(1..=3) {
            mutate(&mut damaged, &mut random, is_text);
        }
        n_errors += usize::from(is_refused(&damaged, &|| format!("mutation {number} of seed {seed}")));
    }
    assert!(
        n_errors > MUTATIONS / 20,
        "only {n_errors} mutations were noticed: is the file looked at?"
    );
}

fn mutate(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng, is_text: bool) {
    const NUMBERS: [u64; 10] = [
        0,
        1,
        0x7f,
        0xffff_ffff,
        0x8000_0000,
        u64::MAX,
        1 << 63,
        1 << 32,
        1 << 40,
        i64::MAX as u64,
    ];
    const WORDS: [&str; 14] = [
        "null",
        "[]",
        "{}",
        "-1",
        "1e999",
        "1e18",
        "18446744073709551616",
        "\"\"",
        "\"..\"",
        "true",
        "[[[[[[",
        "\u{0}",
        "\"(a*)*\"",
        "4294967296",
    ];
    if bytes.is_empty() {
        return;
    }
    // Heads are small and at the front; half of the damage goes there.
    let front = if random.random_bool(0.5) {
        bytes.len().min(512)
    } else {
        bytes.len()
    };
    let at = random.random_range(0..front);
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at] = [0, 0xff, 0x80, b'"', b'{', b'9'][random.random_range(0..6)],
        3 if !is_text => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = [4, 8][random.random_range(0..2)];
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        3 => {
            // Replaces a whole value, where the file is JSON.
            let word = WORDS[random.random_range(0..WORDS.len())];
            let start = bytes[at..]
                .iter()
                .position(|byte| *byte == b':')
                .map_or(at, |colon| at + colon + 1);
            let end = bytes[start..]
                .iter()
                .position(|byte| b",}\n".contains(byte))
                .map_or(start, |end| start + end);
            bytes.splice(start..end, word.bytes());
        }
        4 => {
            let end = bytes.len().min(at + random.random_range(1..64));
            bytes.drain(at..end);
        }
        5 => {
            let end = bytes.len().min(at + random.random_range(1..64));
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let mut noise = vec![0; random.random_range(1..16)];
            random.fill_bytes(&mut noise);
            bytes.splice(at..at, noise);
        }
        _ => bytes.truncate(at),
    }
}

/// A directory in memory, where there is one: rewriting a file on a disk waits for the disk.
fn in_memory() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens a GGUF file and looks at everything in it.
fn look_at_gguf(path: &Path) -> Result<(), FormatError> {
    let gguf = Gguf::open(&[path.to_owned()])?;
    let mut sum = gguf.bytes().wrapping_add(gguf.parameter_count()) as usize;
    for (key, value) in gguf.metadata().iter() {
        sum += value.to_json(1_000_000).to_string().len() + key.len();
        if let Value::Array(array) = value {
            sum += array.iter().count();
            sum += array.strings().map_or(0, |strings| strings.len()) + array.f32s().map_or(0, |values| values.len());
            sum += array.i64s().map_or(0, |values| values.len()) + array.bools().map_or(0, |values| values.len());
        }
        let _ = (
            gguf.metadata().u32(key),
            gguf.metadata().f64(key),
            gguf.metadata().str(key),
        );
    }
    for tensor in gguf.tensors() {
        if let Ok(bytes) = gguf.tensor_data(tensor) {
            sum += bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        }
        if let Ok(dense) = gguf.tensor_ref(tensor) {
            sum += dense.to_f32()?.len();
        }
    }
    std::hint::black_box((sum, gguf.file_type(), DecoderConfig::from_gguf(&gguf).is_ok()));
    Ok(())
}

#[test]
fn a_damaged_gguf_model_is_an_error_or_readable() {
    let home = in_memory();
    torture(&small_gguf(), 1, false, |bytes| {
        look_at_gguf(&write(home.path(), "m.gguf", bytes))
    });
}

#[test]
fn a_damaged_gguf_adapter_is_an_error_or_usable() {
    let home = in_memory();
    torture(&small_gguf_lora(), 2, false, |bytes| {
        let path = write(home.path(), "a.gguf", bytes);
        let adapter = Adapter::open_gguf(&[path])?.in_row_order(
            RowOrder::Halves,
            Heads {
                n_heads: 2,
                n_kv_heads: 1,
            },
        )?;
        look_at_adapter(&adapter)
    });
}

#[test]
fn a_damaged_safetensors_file_is_an_error_or_readable() {
    let home = in_memory();
    torture(&small_safetensors(), 3, false, |bytes| {
        let tensors = SafeTensors::open_file(&write(home.path(), "m.safetensors", bytes))?;
        for (_, tensor) in tensors.iter() {
            std::hint::black_box(
                tensor
                    .to_f32()
                    .map(|values| values.len())
                    .unwrap_or(tensor.bytes().len()),
            );
        }
        Ok(())
    });
}

#[test]
fn a_damaged_index_is_an_error_or_readable() {
    let home = in_memory();
    write(
        home.path(),
        "a.safetensors",
        &safetensors_of(&[("x", witness_formats::Dtype::F32, &[2])]),
    );
    write(
        home.path(),
        "b.safetensors",
        &safetensors_of(&[("y", witness_formats::Dtype::F32, &[2])]),
    );
    let index = br#"{"metadata": {"total_size": 16}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    torture(index, 4, true, |bytes| {
        write(home.path(), "model.safetensors.index.json", bytes);
        SafeTensors::open(&files(home.path())).map(|_| ())
    });
}

fn look_at_adapter(adapter: &Adapter) -> Result<(), FormatError> {
    for pair in adapter.pairs() {
        std::hint::black_box((pair.a.to_f32()?.len(), pair.b.to_f32()?.len(), pair.scale));
    }
    let config = HfConfig::parse("config.json", CONFIG.as_bytes())?.decoder()?;
    std::hint::black_box(adapter.check_against(&BaseShape::from_decoder("base", &config)).is_ok());
    Ok(())
}

#[test]
fn a_damaged_peft_adapter_is_an_error_or_usable() {
    let home = in_memory();
    write(home.path(), "adapter_model.safetensors", &adapter_tensors());
    torture(ADAPTER_CONFIG.as_bytes(), 5, true, |bytes| {
        write(home.path(), "adapter_config.json", bytes);
        look_at_adapter(&Adapter::open(&files(home.path()))?)
    });
    write(home.path(), "adapter_config.json", ADAPTER_CONFIG.as_bytes());
    torture(&adapter_tensors(), 6, false, |bytes| {
        write(home.path(), "adapter_model.safetensors", bytes);
        look_at_adapter(&Adapter::open(&files(home.path()))?)
    });
}

#[test]
fn a_damaged_configuration_is_an_error_or_bounded() {
    torture(CONFIG.as_bytes(), 7, true, |bytes| {
        let decoder = HfConfig::parse("config.json", bytes)?.decoder()?;
        assert_eq!(decoder.layer_is_sliding.len(), decoder.n_layers);
        assert!(decoder.n_heads % decoder.n_kv_heads == 0 && decoder.n_layers <= 1024);
        Ok(())
    });
    let generation = br#"{"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 50}"#;
    torture(generation, 8, true, |bytes| {
        GenerationConfig::parse("generation_config.json", bytes).map(|_| ())
    });
}

#[test]
fn a_damaged_tokenizer_configuration_is_an_error_or_readable() {
    let home = in_memory();
    torture(TOKENIZER_CONFIG.as_bytes(), 9, true, |bytes| {
        write(home.path(), "tokenizer_config.json", bytes);
        TokenizerConfig::load(&files(home.path())).map(|_| ())
    });
}

/// The worst that a small configuration can ask of the pattern engine stays small, in memory and in steps.
#[test]
fn many_patterns_cost_little() {
    let plain: Vec<String> = (0..16_000)
        .map(|n| format!("\"model.layers.{n}.self_attn.q_proj\": 8"))
        .collect();
    let text = format!(
        r#"{{"peft_type": "LORA", "target_modules": ["q_proj"], "rank_pattern": {{{}}}}}"#,
        plain.join(",")
    );
    let (config, peak) = peak_of(|| PeftConfig::parse("f", text.as_bytes()).unwrap());
    assert!(peak < 32 * 1024 * 1024, "held {peak}");
    assert_eq!(config.rank_of("model.layers.15999.self_attn.q_proj").unwrap(), 8);
    let regexes: Vec<String> = (0..300).map(|n| format!("\"layers.({n}|x)\": 8")).collect();
    let text = format!(
        r#"{{"peft_type": "LORA", "target_modules": ["q_proj"], "rank_pattern": {{{}}}}}"#,
        regexes.join(",")
    );
    assert!(matches!(
        PeftConfig::parse("f", text.as_bytes()),
        Err(FormatError::Limit { .. })
    ));
}

/// The densest JSON, as long as each file may be, costs at most 64 times its length (72 bytes for the two of `0,`, and a growing list): the limits on length bound the memory.
#[test]
fn the_longest_json_stays_bounded() {
    const DENSITY_MAX: isize = 64;
    let filled = |start: &str, piece: &str, length: u64| {
        let room = length as usize - start.len() - 3;
        format!("{start}{}0]}}", piece.repeat(room / piece.len()))
    };
    let most = hf::CONFIG_BYTES_MAX;
    for (start, piece) in [
        ("{\"a\":[", "0,"),
        ("{\"a\":[", "[],"),
        ("{\"eos_token_id\":[", "0,"),
        ("{\"layer_types\":[", "\"\","),
    ] {
        let text = filled(start, piece, most);
        let (_, peak) = peak_of(|| {
            HfConfig::parse("f", text.as_bytes())
                .and_then(|config| config.decoder())
                .is_ok()
        });
        assert!(peak < DENSITY_MAX * most as isize, "{start}{piece}: held {peak}");
        let (_, peak) = peak_of(|| PeftConfig::parse("f", text.as_bytes()).is_ok());
        assert!(peak < DENSITY_MAX * most as isize, "{start}{piece}: held {peak}");
    }
    let most = hf::TOKENIZER_CONFIG_BYTES_MAX;
    let text = filled("{\"additional_special_tokens\":[", "\"\",", most);
    let (_, peak) = peak_of(|| TokenizerConfig::parse("f", text.as_bytes()).is_ok());
    assert!(peak < DENSITY_MAX * most as isize, "held {peak}");
    let home = in_memory();
    write(
        home.path(),
        "config.json",
        &vec![b' '; hf::CONFIG_BYTES_MAX as usize + 1],
    );
    assert!(matches!(
        HfConfig::load(&files(home.path())),
        Err(FormatError::Limit { .. })
    ));
}

/// A vocabulary of 128,256 strings and 280,147 merges costs a head, not a copy.
#[test]
fn a_large_vocabulary_costs_nothing_until_it_is_asked_for() {
    let Some(path) = shared("tokenizers/ggml-vocab/ggml-vocab-llama-bpe.gguf") else {
        return;
    };
    let (gguf, peak) = peak_of(|| Gguf::open(&[path]).unwrap());
    assert!(peak < 64 * 1024, "opening held {peak} bytes");
    let (bytes, peak) = peak_of(|| {
        let tokens = gguf.metadata().array("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.len(), 128_256);
        tokens.byte_strings().unwrap().map(<[u8]>::len).sum::<usize>()
    });
    assert!(bytes > 500_000 && peak < 1024, "iterating held {peak} bytes");
}

/// A head that promises more than the limit is refused before it is read, and a list of files is a list of names.
#[test]
fn promises_are_not_believed() {
    let home = in_memory();
    let mut head = (100_000_001u64).to_le_bytes().to_vec();
    head.extend(b"{}");
    let path = write(home.path(), "x.safetensors", &head);
    let (result, peak) = peak_of(|| SafeTensors::open_file(&path));
    assert!(matches!(result, Err(FormatError::Limit { .. })) && peak < 4096);
    for (name, at) in [("tensors", 8usize), ("entries", 16)] {
        let mut bytes = small_gguf();
        bytes[at..at + 8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        let path = write(home.path(), "x.gguf", &bytes);
        let (result, peak) = peak_of(|| Gguf::open(&[path]));
        assert!(
            matches!(result, Err(FormatError::Limit { .. })) && peak < 65_536,
            "{name}"
        );
    }
    let climbing = FileSet::new([("../../etc/passwd".to_owned(), "/etc/passwd".into())]);
    assert!(climbing.is_err());
}
