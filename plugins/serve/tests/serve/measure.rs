//! The role `measure`: perplexity and importance against slow reckonings of the same, and llama.cpp's own numbers.

use std::path::{Path, PathBuf};

use witness_diagnostics::Diagnostic;
use witness_formats::imatrix::Imatrix;
use witness_formats::safetensors::SafeTensors;
use witness_model::SequenceStep;
use witness_plugin_protocol::{
    AdapterSpec, FileRef, LoadOptions, MeasureEvent, MeasureReply, MeasureRequest, MeasureTask, MeasuredText,
    ModelSpec, SpeedCase,
};
use witness_plugin_serve::{Watch, plan, run};

use crate::support::{file, files, load, shared};
use crate::tiny;

/// Remembers what was told.
#[derive(Default)]
struct Heard {
    events: Vec<MeasureEvent>,
    /// Stops once so many pieces are done.
    stop_after: Option<u64>,
}

impl Watch for Heard {
    fn tell(&mut self, event: &MeasureEvent) {
        self.events.push(event.clone());
    }

    fn should_stop(&self) -> bool {
        self.stop_after.is_some_and(|most| self.n_done() >= most)
    }
}

impl Heard {
    fn n_done(&self) -> u64 {
        let done = self.events.iter().map(|event| match event {
            MeasureEvent::Progress { n_chunks, .. } => *n_chunks,
            _ => 0,
        });
        done.max().unwrap_or(0)
    }
}

/// Bytes that are one token each of the tiny model.
fn text(directory: &Path, n_bytes: usize) -> FileRef {
    let path = directory.join("text.txt");
    let letters = (0..n_bytes).map(|index| char::from(b'a' + ((index * index + index / 7) % 26) as u8));
    std::fs::write(&path, letters.collect::<String>()).unwrap();
    file(&path).remove(0)
}

fn on(file: FileRef) -> MeasuredText {
    MeasuredText {
        file,
        n_context: 32,
        n_chunks: None,
    }
}

fn request(model: Vec<FileRef>, task: MeasureTask) -> MeasureRequest {
    MeasureRequest {
        model: ModelSpec { files: model },
        adapter: None,
        model_name: "tiny".into(),
        task,
        num_thread: Some(2),
    }
}

fn measure(request: &MeasureRequest) -> Result<MeasureReply, Diagnostic> {
    run(request, &mut Heard::default())
}

/// Goal: the perplexity is that of the definition. Method: each place is run by itself from the beginning of its piece, and its probabilities summed in f64.
#[test]
fn perplexity_is_that_of_single_places() {
    let (model, place) = (tiny::model(), tempfile::tempdir().unwrap());
    let text = on(text(place.path(), 100));
    let request = request(files(model.path()), MeasureTask::Perplexity { text });
    let mut heard = Heard::default();
    let reply = run(&request, &mut heard).unwrap();
    // With the beginning token 101: three pieces of 32; of each the tokens 17 to 31 are foretold by those before.
    assert_eq!((reply.n_chunks, reply.n_scored), (3, 45));
    assert_eq!(heard.n_done(), 3);
    let bytes = std::fs::read(place.path().join("text.txt")).unwrap();
    let mut whole = vec![tiny::BOS];
    whole.extend(bytes.iter().map(|&byte| u32::from(byte)));
    let session = load(files(model.path()), LoadOptions::default()).unwrap();
    let graph = session.model.graph().unwrap();
    let mut losses = Vec::new();
    for piece in whole.chunks_exact(32) {
        let mut piece = piece.to_vec();
        piece[0] = tiny::BOS;
        for at in 16..31 {
            let mut cache = graph.new_cache(32);
            let step = SequenceStep {
                tokens: &piece[..=at],
                cache: &mut cache,
                adapter: None,
                n_logits: 1,
            };
            let logits = graph.forward(&mut [step]).unwrap();
            let logits = logits.of(0);
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            losses.push(sum.ln() - f64::from(logits[piece[at + 1] as usize]));
        }
    }
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let wanted = (mean.exp(), mean.exp() * (variance / n).sqrt());
    assert!((reply.perplexity / wanted.0 - 1.0).abs() < 1e-5, "{reply:?} {wanted:?}");
    assert!(
        (reply.perplexity_error / wanted.1 - 1.0).abs() < 1e-4,
        "{reply:?} {wanted:?}"
    );
}

/// Goal: a model is exactly itself; another is not; an adapter counts.
#[test]
fn a_model_does_not_diverge_from_itself() {
    let (model, adapter, place) = (tiny::model(), tiny::adapter(5, true), tempfile::tempdir().unwrap());
    let text = on(text(place.path(), 100));
    let reference: PathBuf = place.path().join("reference");
    let first = MeasureTask::Reference {
        text: text.clone(),
        file: reference.clone(),
    };
    let second = |text: MeasuredText| MeasureTask::Divergence {
        text,
        file: reference.clone(),
    };
    let wrote = request(files(model.path()), first);
    let wrote_reply = measure(&wrote).unwrap();
    let planned = plan(&wrote).unwrap();
    assert_eq!(planned.file_bytes, std::fs::metadata(&reference).unwrap().len());
    assert_eq!((planned.n_chunks, planned.n_tokens), (3, 101));

    let mut same = request(files(model.path()), second(text.clone()));
    let itself = measure(&same).unwrap();
    assert_eq!(itself.perplexity, wrote_reply.perplexity);
    let divergence = itself.divergence.unwrap();
    assert_eq!(
        (divergence.mean, divergence.max, divergence.top_agreement),
        (0.0, 0.0, 1.0)
    );
    assert_eq!(
        (divergence.perplexity_ratio, divergence.probability_change_rms),
        (1.0, 0.0)
    );

    same.adapter = Some(AdapterSpec {
        name: "a".into(),
        files: files(adapter.path()),
    });
    let adapted = measure(&same).unwrap();
    let divergence = adapted.divergence.unwrap();
    assert!(divergence.mean > 0.0 && divergence.max >= divergence.p99 && divergence.p99 >= divergence.median);
    let ratio = adapted.perplexity / wrote_reply.perplexity;
    assert!((divergence.perplexity_ratio - ratio).abs() < 1e-9 * ratio);

    // Another text is another list of tokens: what was written does not fit it.
    same.task = second(MeasuredText {
        n_chunks: Some(2),
        ..text
    });
    let refused = measure(&same).unwrap_err();
    assert_eq!(refused.code, "witness::serve::measure_vocabulary");
}

/// Goal: the sums of the first layer are those of the definition: squares of the normed embedding. Method: reckoned from the weights in the file.
#[test]
fn importance_is_the_mean_square_of_what_goes_in() {
    let (model, place) = (tiny::model(), tempfile::tempdir().unwrap());
    let task = MeasureTask::Importance {
        text: on(text(place.path(), 100)),
        file: place.path().join("out.gguf"),
        is_dat: false,
    };
    let request = request(files(model.path()), task);
    let reply = measure(&request).unwrap();
    assert_eq!((reply.n_matrices, reply.n_scored), (14, 0));
    let imatrix = Imatrix::read(&place.path().join("out.gguf"), "out.gguf").unwrap();
    assert_eq!((imatrix.n_chunks, imatrix.chunk_tokens), (3, 32));
    assert_eq!(imatrix.datasets, ["text.txt"]);

    let tensors = witness_formats::FileSet::from_directory(model.path()).unwrap();
    let tensors = SafeTensors::open(&tensors).unwrap();
    let embedding = tensors.require("model.embed_tokens.weight").unwrap();
    let embedding = witness_formats::decode_f32(embedding.dtype(), embedding.bytes()).unwrap();
    let bytes = std::fs::read(place.path().join("text.txt")).unwrap();
    let mut tokens = vec![tiny::BOS as usize];
    tokens.extend(bytes.iter().map(|&byte| usize::from(byte)));
    let width = embedding.len() / tiny::VOCAB;
    let mut wanted = vec![0.0; width];
    for (at, &token) in tokens[..96].iter().enumerate() {
        let token = if at % 32 == 0 { tiny::BOS as usize } else { token };
        let row = &embedding[token * width..(token + 1) * width];
        let square = row.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>() / width as f64;
        for (sum, &number) in wanted.iter_mut().zip(row) {
            *sum += f64::from(number).powi(2) / (square + 1e-5);
        }
    }
    for name in ["attn_q", "attn_k", "attn_v"] {
        let importance = &imatrix.tensors[&format!("blk.0.{name}.weight")];
        assert_eq!(importance.counts, [96.0]);
        for (found, wanted) in importance.sums.iter().zip(&wanted) {
            assert!(
                (f64::from(*found) / wanted - 1.0).abs() < 1e-4,
                "{name} {found} {wanted}"
            );
        }
    }
    // A file that is there is not written over: the host gives an empty directory.
    assert!(measure(&request).is_err());
}

/// Goal: every text that cannot be measured on is refused with its name, and a job that is asked to stop does.
#[test]
fn what_cannot_be_measured_is_refused() {
    let (model, place) = (tiny::model(), tempfile::tempdir().unwrap());
    let text = on(text(place.path(), 100));
    let asked = |text: &MeasuredText| request(files(model.path()), MeasureTask::Perplexity { text: text.clone() });
    let mut heard = Heard {
        stop_after: Some(1),
        ..Heard::default()
    };
    assert_eq!(
        run(&asked(&text), &mut heard).unwrap_err().code,
        "witness::serve::stopped"
    );
    assert_eq!(heard.n_done(), 1);

    for n_context in [0, 7, tiny::CONTEXT as u64 + 1] {
        let text = MeasuredText {
            n_context,
            ..text.clone()
        };
        assert_eq!(
            measure(&asked(&text)).unwrap_err().code,
            "witness::serve::measure_context"
        );
    }
    let none = MeasuredText {
        n_chunks: Some(0),
        ..text.clone()
    };
    assert_eq!(measure(&asked(&none)).unwrap_err().code, "witness::serve::measure_text");
    for (bytes, word) in [(&b"abc"[..], "4 tokens"), (&b"abc\xff"[..], "UTF-8")] {
        std::fs::write(place.path().join("text.txt"), bytes).unwrap();
        let refused = measure(&asked(&text)).unwrap_err();
        assert!(
            refused.code == "witness::serve::measure_text" && refused.to_string().contains(word),
            "{refused}"
        );
    }
    // Shorter than a piece: one piece, and it is told.
    std::fs::write(place.path().join("text.txt"), "abcdefghijklmnop").unwrap();
    let mut heard = Heard::default();
    let reply = run(&asked(&text), &mut heard).unwrap();
    assert_eq!((reply.n_chunks, reply.n_tokens), (1, 17));
    assert!(
        heard
            .events
            .iter()
            .any(|event| matches!(event, MeasureEvent::Warning { .. }))
    );
}

/// Goal: every case is timed as often as asked, prompts and answers, one sequence and several.
#[test]
fn speed_is_measured_case_by_case() {
    let model = tiny::model();
    let case = |n_prompt, n_generate, n_parallel| SpeedCase {
        n_prompt,
        n_generate,
        n_parallel,
        n_adapters: 0,
    };
    let adapted = SpeedCase {
        n_adapters: 3,
        ..case(16, 8, 3)
    };
    let cases = vec![case(300, 0, 1), case(16, 8, 1), case(16, 8, 3), adapted];
    let task = MeasureTask::Speed {
        cases: cases.clone(),
        n_repeats: 2,
    };
    let reply = measure(&request(files(model.path()), task)).unwrap();
    let found: Vec<SpeedCase> = reply.speed.iter().map(|found| found.case).collect();
    assert_eq!(found, cases);
    for found in &reply.speed {
        let numbers = &found.tokens_per_second;
        assert!(numbers.len() == 2 && numbers.iter().all(|number| *number > 0.0));
    }
    assert!(reply.weights_bytes > 0);
    if cfg!(target_os = "linux") {
        let memory = reply.memory.unwrap();
        assert!(memory.anonymous_bytes > 0 && memory.peak_bytes >= memory.anonymous_bytes);
    }
}

/// Goal: the numbers of llama.cpp's own programs on the same file and text. They are those of llama-cpp-python 0.3.36's llama.cpp on the first 40,000 bytes
/// of the corpus: `llama-perplexity -m stories260K-f32.gguf -f TEXT -c 128 --chunks 60` and `llama-imatrix` with `--chunks 20`.
#[test]
fn the_numbers_are_llama_cpp_s() {
    const PERPLEXITY: (f64, f64) = (52.0561, 2.85290);
    /// Sums of `in_sum2`, over all columns; 20 pieces of 128 rows.
    const SQUARES: [(&str, f64); 6] = [
        ("blk.0.attn_k.weight", 211_602.624),
        ("blk.0.attn_output.weight", 15_186.735),
        ("blk.2.attn_q.weight", 261_085.514),
        ("blk.3.ffn_up.weight", 115_658.402),
        ("blk.4.attn_output.weight", 16_339.112),
        ("blk.4.ffn_down.weight", 111_074.679),
    ];
    let (Some(models), Some(corpora)) = (shared("models"), shared("corpora")) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let corpus = std::fs::read(corpora.join("war-and-peace.txt")).unwrap();
    std::fs::write(place.path().join("text.txt"), &corpus[..40_000]).unwrap();
    let model = file(&models.join("stories260K-gguf/stories260K-f32.gguf"));
    let text = |n_chunks| MeasuredText {
        file: file(&place.path().join("text.txt")).remove(0),
        n_context: 128,
        n_chunks: Some(n_chunks),
    };
    let found = measure(&request(model.clone(), MeasureTask::Perplexity { text: text(60) })).unwrap();
    // llama.cpp keeps keys and values in f16, whose rounding shows from the fifth digit on.
    assert!((found.perplexity / PERPLEXITY.0 - 1.0).abs() < 3e-5, "{found:?}");
    assert!((found.perplexity_error / PERPLEXITY.1 - 1.0).abs() < 1e-4, "{found:?}");

    let task = MeasureTask::Importance {
        text: text(20),
        file: place.path().join("out.gguf"),
        is_dat: false,
    };
    measure(&request(model, task)).unwrap();
    let imatrix = Imatrix::read(&place.path().join("out.gguf"), "out.gguf").unwrap();
    assert_eq!(imatrix.tensors.len(), 35);
    for (name, wanted) in SQUARES {
        let importance = &imatrix.tensors[name];
        let sum: f64 = importance.sums.iter().map(|&sum| f64::from(sum)).sum();
        assert_eq!(importance.counts, [2560.0], "{name}");
        assert!((sum / wanted - 1.0).abs() < 1e-4, "{name}: {sum}");
    }
}
