//! The packed form in a file: the same numbers to the bit, whatever the type, and nothing but a fresh start from a file that is not what it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use witness_formats::gguf::GgmlType;
use witness_formats::gguf::rows::RowOrder;
use witness_kernels::{LAYOUT_VERSION, is_packable};
use witness_model::Model;
use witness_model::packed::{PackedForm, TakenOver, file_name, take_over, write};
use witness_model::weight::Storage;

use crate::support::{Random, Spec, Tiny, quantized, run};
use crate::tmpfs::Mounted;

const SOURCE: &str = "model.gguf=sha256:00;";

fn said(model: &Model) -> Vec<Vec<f32>> {
    let tokens = Random::new(5).tokens(12, 50);
    let mut cache = model.new_cache(20);
    let mut said = run(model, &tokens[..9], &mut cache, None);
    for token in &tokens[9..] {
        said.extend(run(model, &[*token], &mut cache, None));
    }
    said
}

fn mapped(tiny: &Tiny, form: &PackedForm) -> Model {
    Model::load_packed(tiny.config.clone(), &tiny.memory, Some(form)).unwrap()
}

/// Writes the packed form of a model and returns where it is.
fn kept(tiny: &Tiny, directory: &Path) -> PathBuf {
    let path = directory.join(file_name("blob"));
    assert!(write(&tiny.load(), &path, SOURCE, u64::MAX, &|| true).unwrap());
    path
}

/// As the loader finds a type without a kernel.
fn widened(kind: GgmlType) -> Tiny {
    let mut tiny = quantized(kind, 1, false, RowOrder::Interleaved);
    for (storage, _, _) in tiny.memory.tensors.values_mut() {
        if *storage == Storage::Blocks(kind) {
            *storage = Storage::Widened(kind);
        }
    }
    tiny
}

// Method: what the loader made is written, mapped, multiplied with, copied, multiplied with again, and written once more: the logits and the second file have the very bits of
// the first.
#[test]
fn every_type_comes_back_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let mut all: Vec<(GgmlType, Tiny)> = GgmlType::all()
        .filter(|kind| is_packable(*kind))
        .enumerate()
        .map(|(index, kind)| {
            let rows = [RowOrder::Halves, RowOrder::Interleaved][index % 2];
            (kind, quantized(kind, 1, index % 3 == 0, rows))
        })
        .collect();
    assert!(all.len() >= 10);
    all.push((GgmlType::IQ4_NL, widened(GgmlType::IQ4_NL)));
    for (kind, tiny) in all {
        let fresh = tiny.load();
        assert!(fresh.is_mostly_made(), "{kind:?}");
        let path = kept(&tiny, directory.path());
        let form = PackedForm::open(&path, SOURCE).unwrap();
        let model = mapped(&tiny, &form);
        assert_eq!(model.bytes(), fresh.bytes());
        let expected = said(&fresh);
        assert_eq!(said(&model), expected, "{kind:?}, mapped");
        assert_eq!(take_over(&model, &form, &|| true), TakenOver::All);
        assert_eq!(said(&model), expected, "{kind:?}, in memory of its own");
        let again = directory.path().join("again");
        assert!(write(&model, &again, SOURCE, u64::MAX, &|| true).unwrap());
        assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap(), "{kind:?}");
    }
}

// Goal: products that run while matrices change over give what they gave.
#[test]
fn products_run_while_matrices_change_over() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q4_K, 2, true, RowOrder::Halves);
    let path = kept(&tiny, directory.path());
    let expected = said(&tiny.load());
    for _ in 0..8 {
        let form = PackedForm::open(&path, SOURCE).unwrap();
        let model = mapped(&tiny, &form);
        std::thread::scope(|scope| {
            let copying = scope.spawn(|| take_over(&model, &form, &|| true));
            for _ in 0..4 {
                assert_eq!(said(&model), expected);
            }
            assert_eq!(copying.join().unwrap(), TakenOver::All);
        });
    }
}

// A file that is cut, of other files, of another layout, or damaged where it says what is where is no file: the error is not the user's, and what is loaded is right.
#[test]
fn a_file_that_is_not_what_it_was_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q5_K, 1, false, RowOrder::Halves);
    let path = kept(&tiny, directory.path());
    let whole = fs::read(&path).unwrap();
    let why = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        PackedForm::open(&path, SOURCE)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(why(&whole), Ok(()));
    let index_at = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    for length in (0..64).chain([index_at - 1, index_at, whole.len() / 2, whole.len() - 1]) {
        assert!(why(&whole[..length]).is_err(), "{length} bytes");
    }
    assert!(why(&[&whole[..], b" "].concat()).is_err(), "a byte more");
    for at in (0..32).chain(index_at..whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(why(&changed).is_err(), "byte {at}");
    }
    let mut old = whole.clone();
    old[8..12].copy_from_slice(&(LAYOUT_VERSION - 1).to_le_bytes());
    assert_eq!(
        why(&old).unwrap_err(),
        "it was written by another version of the program"
    );
    fs::write(&path, &whole).unwrap();
    let other = PackedForm::open(&path, "model.gguf=sha256:01;").unwrap_err();
    assert_eq!(other.to_string(), "it was made of other files");
    let gone = PackedForm::open(&directory.path().join("none"), SOURCE).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
}

// Goal: a bit that flipped in a matrix is found by the copying, and named, whichever matrix and bit it is.
#[test]
fn a_flipped_bit_of_a_matrix_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q4_0, 1, true, RowOrder::Halves);
    let path = kept(&tiny, directory.path());
    let whole = fs::read(&path).unwrap();
    let index_at = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    let index: serde_json::Value = serde_json::from_slice(&whole[index_at..]).unwrap();
    for (number, matrix) in index["matrices"].as_array().unwrap().iter().enumerate() {
        let (offset, bytes) = (matrix["offset"].as_u64().unwrap(), matrix["bytes"].as_u64().unwrap());
        let at = [offset, offset + bytes / 2, offset + bytes - 1][number % 3] as usize;
        let mut changed = whole.clone();
        changed[at] ^= 1 << (number % 8);
        fs::write(&path, &changed).unwrap();
        let form = PackedForm::open(&path, SOURCE).unwrap();
        let model = mapped(&tiny, &form);
        let name = matrix["name"].as_str().unwrap().to_owned();
        assert_eq!(take_over(&model, &form, &|| true), TakenOver::Damaged(name));
    }
}

// Told to stop, for want of room, or where the directory is gone: nothing is left beside the place, and what was there stays.
#[test]
fn what_is_not_finished_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q8_0, 1, false, RowOrder::Halves);
    let path = kept(&tiny, directory.path());
    let (model, before) = (tiny.load(), fs::read(&path).unwrap());
    for left in [0, 1, 3] {
        let left = std::cell::Cell::new(left);
        let goes_on = || {
            let before = left.get();
            left.set(before - 1);
            before > 0
        };
        assert!(!write(&model, &path, SOURCE, u64::MAX, &goes_on).unwrap());
    }
    assert!(
        !write(&model, &path, SOURCE, model.bytes(), &|| true).unwrap(),
        "no room"
    );
    assert!(write(&model, &directory.path().join("gone/blob"), SOURCE, u64::MAX, &|| true).is_err());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    assert!(fs::read(&path).unwrap() == before);
    let form = PackedForm::open(&path, SOURCE).unwrap();
    let half = mapped(&tiny, &form);
    assert_eq!(take_over(&half, &form, &|| false), TakenOver::Ended);
    assert_eq!(said(&half), said(&model));
}

// A disk that is full anywhere in the middle: an error, nothing left that takes what little room there is, and what was there stays good.
#[test]
fn a_full_disk_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q8_0, 1, false, RowOrder::Halves);
    let (model, whole) = (tiny.load(), fs::read(kept(&tiny, directory.path())).unwrap());
    let small = directory.path().join("small");
    fs::create_dir(&small).unwrap();
    for bytes in [8 << 10, whole.len() / 2, whole.len() - 1] {
        // A file system counts whole pages, of which its own root may be one.
        let Some(_mounted) = Mounted::tmpfs(&small, &(bytes / 4096 * 4096).to_string()) else {
            eprintln!("skipped: a full disk needs the right to mount a tmpfs");
            return;
        };
        let path = small.join(file_name("blob"));
        let error = write(&model, &path, SOURCE, u64::MAX, &|| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{bytes} bytes: {error}");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
    }
    {
        let Some(_mounted) = Mounted::tmpfs(&small, &(2 * whole.len()).to_string()) else {
            return;
        };
        let path = kept(&tiny, &small);
        fs::write(small.join("other"), vec![1; whole.len() * 3 / 4]).unwrap();
        assert!(write(&model, &path, SOURCE, u64::MAX, &|| true).is_err());
        assert!(fs::read(&path).unwrap() == whole);
        assert_eq!(fs::read_dir(&small).unwrap().count(), 2);
    }
}

// Plain weights are only copied by a load: a file of them would be a second copy and no quicker.
#[test]
fn weights_that_are_only_copied_are_not_worth_it() {
    assert!(!Spec::default().build().load().is_mostly_made());
}

// Two workers of one model, and one that begins where another was killed: what stands at the end is whole, and nothing lies beside it.
#[test]
fn writers_do_not_hurt_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let tiny = quantized(GgmlType::Q4_1, 1, false, RowOrder::Halves);
    let (path, model) = (kept(&tiny, directory.path()), tiny.load());
    let whole = fs::read(&path).unwrap();
    for round in 0..20 {
        fs::remove_file(&path).unwrap();
        if round % 2 == 0 {
            fs::write(path.with_extension("v1.part"), vec![7; whole.len() + 9]).unwrap();
        }
        let n_written = std::thread::scope(|scope| {
            let writers = [0, 1, 2].map(|_| scope.spawn(|| write(&model, &path, SOURCE, u64::MAX, &|| true).unwrap()));
            writers
                .map(|writer| writer.join().unwrap())
                .iter()
                .filter(|&&is_written| is_written)
                .count()
        });
        assert!(n_written >= 1);
        assert!(fs::read(&path).unwrap() == whole);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }
}
