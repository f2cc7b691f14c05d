//! Importance matrices: both forms there and back, and every way in which a file can be cut.

use witness_formats::imatrix::{Imatrix, ImatrixForm, Importance};

use crate::support::write;

fn example() -> Imatrix {
    let importance = |sums: &[f32], counts: &[f32]| Importance {
        sums: sums.to_vec(),
        counts: counts.to_vec(),
    };
    let mut imatrix = Imatrix {
        datasets: vec!["chats.txt".into()],
        n_chunks: 2,
        chunk_tokens: 4,
        ..Imatrix::default()
    };
    let tensors = [
        ("blk.0.attn_q.weight", importance(&[8.0, 2.0, 0.5], &[8.0])),
        // Of the second expert nothing is known.
        (
            "blk.0.ffn_up_exps.weight",
            importance(&[4.0, 8.0, 0.0, 0.0], &[4.0, 0.0]),
        ),
    ];
    imatrix.tensors = tensors.map(|(name, of)| (name.to_owned(), of)).into();
    imatrix
}

fn bytes(imatrix: &Imatrix, form: ImatrixForm) -> Vec<u8> {
    let mut bytes = Vec::new();
    imatrix.write(form, &mut bytes).unwrap();
    bytes
}

/// Goal: GGUF keeps everything; the older form keeps the means, which are what counts.
#[test]
fn both_forms_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let example = example();
    let path = write(directory.path(), "a.gguf", &bytes(&example, ImatrixForm::Gguf));
    assert_eq!(Imatrix::read(&path, "a.gguf").unwrap(), example);
    let path = write(directory.path(), "a.dat", &bytes(&example, ImatrixForm::Dat));
    let read = Imatrix::read(&path, "a.dat").unwrap();
    assert_eq!((read.n_chunks, &read.datasets), (2, &example.datasets));
    for (name, importance) in &example.tensors {
        assert_eq!(read.tensors[name].means(), importance.means(), "{name}");
    }
    assert_eq!(
        example.tensors["blk.0.ffn_up_exps.weight"].means(),
        [1.0, 2.0, 1.0, 1.0]
    );
}

/// Goal: the older form, byte for byte as llama.cpp's description has it.
#[test]
fn the_older_form_is_laid_out_as_described() {
    let mut imatrix = example();
    imatrix.tensors.pop_last();
    let mut wanted = Vec::new();
    let mut number = |number: i32| wanted.extend(number.to_le_bytes());
    number(1);
    number(19);
    wanted.extend(b"blk.0.attn_q.weight");
    // Eight rows of chunks of four are two calls; each value is the mean times the calls.
    for word in [2i32.to_le_bytes(), 3i32.to_le_bytes()] {
        wanted.extend(word);
    }
    for value in [2.0f32, 0.5, 0.125] {
        wanted.extend(value.to_le_bytes());
    }
    wanted.extend(2i32.to_le_bytes());
    wanted.extend(9i32.to_le_bytes());
    wanted.extend(b"chats.txt");
    assert_eq!(bytes(&imatrix, ImatrixForm::Dat), wanted);
}

/// Goal: a cut file is an error that says so, wherever it is cut; nothing panics.
#[test]
fn a_cut_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for form in [ImatrixForm::Gguf, ImatrixForm::Dat] {
        let whole = bytes(&example(), form);
        let entries_end = whole.len() - 4 - 4 - "chats.txt".len();
        for length in 0..whole.len() {
            let path = write(directory.path(), "cut", &whole[..length]);
            let is_old_end = form == ImatrixForm::Dat && length == entries_end;
            // Without its end the older form is one of the first versions' files; padding of GGUF is nothing.
            match Imatrix::read(&path, "cut") {
                Ok(read) => assert!(
                    is_old_end || form == ImatrixForm::Gguf && read == example(),
                    "{form:?} {length}"
                ),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// Goal: counts that do not divide the sums are told by the tensor's name, in and out.
#[test]
fn counts_that_do_not_fit_are_refused() {
    let mut imatrix = example();
    imatrix.tensors.get_mut("blk.0.attn_q.weight").unwrap().counts = vec![1.0, 1.0];
    let refused = imatrix
        .write(ImatrixForm::Gguf, &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("blk.0.attn_q.weight"), "{refused}");
}
