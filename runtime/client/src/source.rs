//! Which files make a model or an adapter, told by their names alone. Nothing is opened: what a file holds is the plugin's business.

use std::fs;
use std::path::{Path, PathBuf};

use witness_diagnostics::Kind;

use crate::error::ClientError;

/// Files that one model may consist of. The largest sharded models have a few hundred.
const FILES_MAX: usize = 4096;

/// Files beside the weights that belong to a Hugging Face model.
const COMPANIONS: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Endings of files that can run code when they are read.
const PICKLES: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl"];

/// One file to be stored, with the name it has inside its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// File name.
    pub name: String,
    /// Where it lies now.
    pub path: PathBuf,
}

/// Returns the files of the base model at `path`: a GGUF file, or a directory of safetensors or GGUF files.
///
/// # Errors
/// When nothing there can be a model, or it is only there as pickle.
pub fn model_files(path: &Path) -> Result<Vec<SourceFile>, ClientError> {
    if !metadata(path)?.is_dir() {
        return single_file(path, "FROM");
    }
    let names = list(path)?;
    if has(&names, "adapter_config.json") && !has(&names, "config.json") {
        return Err(refused(
            format!("`{}` is an adapter, not a base model", path.display()),
            format!("write `ADAPTER {}` and name its base with FROM", path.display()),
        ));
    }
    let ends = |ending: &str| -> Vec<&String> { names.iter().filter(|name| name.ends_with(ending)).collect() };
    let mut weights: Vec<&String> = ends(".safetensors")
        .into_iter()
        .filter(|name| !name.starts_with("adapter_"))
        .collect();
    // Some publishers ship the same weights twice, once under the name of their own loader.
    if weights.iter().any(|name| name.starts_with("model")) {
        weights.retain(|name| !name.starts_with("consolidated"));
    }
    if weights.is_empty() {
        let parts = ends(".gguf");
        if parts.is_empty() {
            return Err(nothing_found(path, &names, "a model"));
        }
        return Ok(found(path, parts));
    }
    if !has(&names, "config.json") {
        return Err(refused(
            format!("`{}` holds safetensors but no config.json", path.display()),
            "copy config.json and the tokenizer files of the model beside its weights".to_owned(),
        ));
    }
    let companions = names.iter().filter(|name| COMPANIONS.contains(&name.as_str()));
    Ok(found(path, companions.chain(weights).collect()))
}

/// Returns the files of the adapter at `path`: a PEFT directory, its weights file, or a GGUF LoRA file.
///
/// # Errors
/// When nothing there can be an adapter, or it is only there as pickle.
pub fn adapter_files(path: &Path) -> Result<Vec<SourceFile>, ClientError> {
    const PEFT: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
    if !metadata(path)?.is_dir() {
        // The weights of a PEFT adapter say nothing without the file beside them.
        return match path.parent() {
            Some(directory) if file_name(path) == PEFT[1] => adapter_files(nonempty(directory)),
            _ => single_file(path, "ADAPTER"),
        };
    }
    let names = list(path)?;
    let wanted: Vec<&String> = names.iter().filter(|name| PEFT.contains(&name.as_str())).collect();
    if wanted.len() == PEFT.len() {
        return Ok(found(path, wanted));
    }
    let parts: Vec<&String> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
    if parts.len() == 1 {
        return Ok(found(path, parts));
    }
    Err(nothing_found(
        path,
        &names,
        "an adapter (adapter_config.json and adapter_model.safetensors, or one .gguf file)",
    ))
}

fn single_file(path: &Path, command: &str) -> Result<Vec<SourceFile>, ClientError> {
    let name = file_name(path);
    if is_pickle(&name) {
        return Err(pickle(path));
    }
    if name.ends_with(".safetensors") {
        return Err(refused(
            format!("`{}` is only the weights of a model", path.display()),
            format!("name its directory, which holds config.json and the tokenizer: `{command} <directory>`"),
        ));
    }
    Ok(vec![SourceFile {
        name,
        path: path.to_owned(),
    }])
}

fn metadata(path: &Path) -> Result<fs::Metadata, ClientError> {
    fs::metadata(path).map_err(|source| ClientError::File {
        path: path.to_owned(),
        source,
    })
}

/// Returns the names of the files in a directory, sorted; directories in it are not entered.
fn list(directory: &Path) -> Result<Vec<String>, ClientError> {
    let failed = |source| ClientError::File {
        path: directory.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Through links: the cache of a hub keeps its files as links.
        if !fs::metadata(&path).is_ok_and(|data| data.is_file()) {
            continue;
        }
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
        if names.len() > FILES_MAX {
            return Err(refused(
                format!("`{}` holds more than {FILES_MAX} files", directory.display()),
                "name the directory of the model itself".to_owned(),
            ));
        }
    }
    names.sort();
    Ok(names)
}

fn found(directory: &Path, names: Vec<&String>) -> Vec<SourceFile> {
    names
        .into_iter()
        .map(|name| SourceFile {
            name: name.clone(),
            path: directory.join(name),
        })
        .collect()
}

fn has(names: &[String], wanted: &str) -> bool {
    names.iter().any(|name| name == wanted)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn nonempty(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    }
}

fn is_pickle(name: &str) -> bool {
    Path::new(name)
        .extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| PICKLES.contains(&ending.to_ascii_lowercase().as_str()))
}

fn nothing_found(path: &Path, names: &[String], wanted: &str) -> ClientError {
    if names.iter().any(|name| is_pickle(name)) {
        return pickle(path);
    }
    refused(
        format!("`{}` does not hold {wanted}", path.display()),
        "a model is a .gguf file, or a directory with config.json, *.safetensors and tokenizer.json".to_owned(),
    )
}

fn pickle(path: &Path) -> ClientError {
    ClientError::Source {
        message: format!(
            "`{}` holds weights as pickle, which can run code when it is read",
            path.display()
        ),
        hint: "use the safetensors form; `model.save_pretrained(dir, safe_serialization=True)` writes it".to_owned(),
        kind: Kind::Unsupported,
    }
}

fn refused(message: String, hint: String) -> ClientError {
    ClientError::Source {
        message,
        hint,
        kind: Kind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(directory.path().join(name), "").unwrap();
        }
        directory
    }

    fn names(files: Result<Vec<SourceFile>, ClientError>) -> Result<Vec<String>, String> {
        files
            .map(|files| files.into_iter().map(|file| file.name).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_is_told_by_its_names() {
        type Case<'a> = (&'a [&'a str], Result<&'a [&'a str], &'a str>);
        let cases: &[Case<'_>] = &[
            (
                &[
                    "config.json",
                    "model.safetensors",
                    "tokenizer.json",
                    "README.md",
                    "consolidated.safetensors",
                ],
                Ok(&["config.json", "tokenizer.json", "model.safetensors"]),
            ),
            (
                &["config.json", "consolidated.safetensors"],
                Ok(&["config.json", "consolidated.safetensors"]),
            ),
            (
                &["b-00002-of-00002.gguf", "b-00001-of-00002.gguf"],
                Ok(&["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]),
            ),
            (&["config.json", "pytorch_model.bin"], Err("pickle")),
            (&["model.safetensors"], Err("no config.json")),
            (
                &["adapter_config.json", "adapter_model.safetensors"],
                Err("is an adapter"),
            ),
            (&["notes.txt"], Err("does not hold a model")),
        ];
        for (files, expected) in cases {
            let directory = directory(files);
            match (names(model_files(directory.path())), expected) {
                (Ok(names), Ok(expected)) => assert_eq!(&names, expected),
                (Err(message), Err(expected)) => assert!(message.contains(expected), "{message}"),
                (other, _) => panic!("{files:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_adapter_is_found_by_its_directory_or_its_weights() {
        let peft = directory(&[
            "adapter_config.json",
            "adapter_model.safetensors",
            "optimizer.pt",
            "README.md",
        ]);
        let expected = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(names(adapter_files(peft.path())).unwrap(), expected);
        assert_eq!(
            names(adapter_files(&peft.path().join("adapter_model.safetensors"))).unwrap(),
            expected
        );
        let pickled = directory(&["adapter_config.json", "adapter_model.bin"]);
        assert!(names(adapter_files(pickled.path())).unwrap_err().contains("pickle"));
    }
}
