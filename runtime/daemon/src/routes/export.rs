//! `POST /api/witness/export`: the files of an adapter, or of a base, into a directory of the user's. For the unix socket alone.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use witness_api::{ExportRequest, ExportResponse};
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::FileRef;

use super::native::{absolute, local_only};
use crate::app::App;
use crate::body::Json;
use crate::create::order::check_file_name;
use crate::guard::Door;
use crate::models::library::blocking;
use crate::reply::{self, Failure, Reply, invalid};
use crate::turn::{BASE, choose_adapter};

/// What makes a PEFT directory.
const PEFT: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

pub(super) async fn export(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Json(request): Json<ExportRequest>,
) -> Reply {
    local_only(door)?;
    let directory = absolute(request.directory)?;
    let stored = app.library.stored(&request.model).await?;
    let adapter = choose_adapter(&stored, request.adapter.as_deref())?;
    let files = match (&adapter, request.adapter.as_deref()) {
        (Some(adapter), _) => adapter.files.clone(),
        (None, Some(BASE)) => stored.base.files.clone(),
        (None, _) => {
            return Err(
                invalid("export_adapter", format!("model `{}` has no adapter", stored.name))
                    .hint(format!("its own files are written with `\"adapter\": \"{BASE}\"`"))
                    .into(),
            );
        }
    };
    check_form(request.form.as_deref(), &files)?;
    let lease = crate::reckon::lease_of(&app, &files);
    let force = request.force;
    let answer = blocking(move || {
        let _lease = lease;
        write(&directory, &files, force)?;
        Ok::<_, Diagnostic>(ExportResponse {
            files: files.into_iter().map(|file| file.name).collect(),
            directory,
        })
    })
    .await?;
    tracing::info!(model = %request.model, directory = %answer.directory.display(), "exported");
    Ok(reply::json(&answer))
}

fn check_form(form: Option<&str>, files: &[FileRef]) -> Result<(), Failure> {
    let is_peft = PEFT.iter().all(|name| files.iter().any(|file| file.name == *name));
    match form {
        None | Some("") => Ok(()),
        Some("peft") if is_peft => Ok(()),
        Some("peft") => {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            Err(Diagnostic::new(
                "witness::daemon::export_form",
                Kind::Unsupported,
                "the files are not those of a PEFT adapter",
            )
            .cause(format!("they are {}", names.join(", ")))
            .hint("leave `form` out to have them as they are")
            .into())
        }
        Some(other) => Err(
            invalid("export_form", format!("there is no form `{}`", other.escape_debug()))
                .hint("the form is `peft`; without one the files are written as they are stored")
                .into(),
        ),
    }
}

/// Copies the bytes alone: a blob may not be written to, and the user's file may.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut written = fs::File::create(target)?;
    io::copy(&mut fs::File::open(source)?, &mut written)?;
    written.sync_all()
}

/// Copies files into a directory that is new or empty, or whose files may be written over.
fn write(directory: &Path, files: &[FileRef], force: bool) -> Result<(), Diagnostic> {
    let failed = |path: &Path, error: &io::Error| {
        Diagnostic::new(
            "witness::daemon::export_failed",
            Kind::Environment,
            format!("`{}` cannot be written", path.display()),
        )
        .cause(error.to_string())
    };
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let mut there = fs::read_dir(directory).map_err(|error| failed(directory, &error))?;
    if !force && there.next().is_some() {
        return Err(Diagnostic::new(
            "witness::daemon::export_not_empty",
            Kind::Conflict,
            format!("`{}` is not empty", directory.display()),
        )
        .hint("name a directory that is new or empty, or say `\"force\": true` (`--force`)"));
    }
    for file in files {
        // Names come out of a manifest, which another program may have written.
        check_file_name(&file.name, &file.name)?;
        let target = directory.join(&file.name);
        let parent = target.parent().unwrap_or(directory);
        fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        // Whoever reads the directory meanwhile finds a file old or new; a link that lies there is replaced and not followed.
        let mut draft = target.clone().into_os_string();
        draft.push(".witness-part");
        if let Err(error) = copy(&file.path, Path::new(&draft)).and_then(|()| fs::rename(&draft, &target)) {
            let _ = fs::remove_file(&draft);
            return Err(failed(&target, &error));
        }
    }
    Ok(())
}
