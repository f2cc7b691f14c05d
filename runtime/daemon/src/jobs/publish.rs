//! What a run made becomes a model: files into the store, looked into by a limited worker, proven, and named last. All of it through the code
//! of `create`; nothing of a run is visible before its manifest is.
//!
//! A plugin names files; what is taken lies in the run's own directory, whatever the names and links there say.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use witness_api::TrainJobLine;
use witness_diagnostics::Diagnostic;
use witness_plugin_protocol::{AdapterSpec, FileRef, TrainProduct, TrainReply};
use witness_registry::{ImportOptions, Lease, ModelName, Registry};

use super::record::CheckpointRecord;
use super::run::Run;
use super::work::change;
use crate::app::{App, VERSION};
use crate::create;
use crate::create::order::{Order, Product, Texts, Trained, check_file_name};
use crate::limits::{ADAPTERS_MAX, FILES_MAX};
use crate::models::library::{blocking, parse_name};
use crate::models::stored::ADAPTER_DEFAULT;
use crate::product;

/// Errors of a proof that speak of the adapter itself. With any other the adapter may be sound.
const DISPROOFS: &[&str] = &["witness::daemon::adapter_broken", "witness::daemon::adapter_no_effect"];

/// Files of a product in the store, with what keeps them there.
struct Gathered {
    product: Product,
    /// Names of its adapters.
    adapters: Vec<String>,
    leases: Vec<Lease>,
}

/// Stores the checkpoints that are there, if the run's model was not there before it.
pub(super) async fn checkpoints(app: &Arc<App>, run: &Arc<Run>) -> Result<(), Diagnostic> {
    let name = parse_name(&run.job.model)?;
    if !run.job.is_new {
        return Ok(());
    }
    let (kept, best_step) = run.checkpoints();
    let kept = latest(kept);
    let best = best_step.filter(|_| run.job.settings.load_best_model_at_end);
    let best = best.and_then(|best| kept.iter().find(|checkpoint| checkpoint.step == best));
    let Some(first) = best.or(kept.last()).cloned() else {
        return Ok(());
    };
    let step = first.step;
    let (registry, output) = (app.library.registry.clone(), run.output());
    let gathered = blocking(move || gather_adapters(&registry, &output, &first.directory, &first.files, &kept)).await?;
    let mut training = provenance(run);
    training.insert("step".into(), json!(step));
    match store(app, run, name, gathered, training, step, false).await {
        Err(error) if error.code == create::NAME_TAKEN => Ok(()),
        stored => stored,
    }
}

/// Stores what a run that made all its steps leaves, under its model's name.
pub(super) async fn product(
    app: &Arc<App>,
    run: &Arc<Run>,
    reply: &TrainReply,
    plugin: &str,
) -> Result<(), Diagnostic> {
    let name = parse_name(&run.job.model)?;
    let (kept, _) = run.checkpoints();
    let (registry, output, wanted) = (app.library.registry.clone(), run.output(), reply.clone());
    let gathered = blocking(move || match wanted.product {
        TrainProduct::Adapter => gather_adapters(&registry, &output, &wanted.directory, &wanted.files, &latest(kept)),
        TrainProduct::Model => {
            let mut leases = Vec::new();
            let files = import(&registry, &output, &wanted.directory, &wanted.files, &mut leases)?;
            Ok(Gathered {
                product: Product::Model(files),
                adapters: Vec::new(),
                leases,
            })
        }
    })
    .await?;
    let step = reply.best_step.unwrap_or(reply.steps);
    let mut training = provenance(run);
    training.insert("plugin".into(), json!(plugin));
    training.insert("step".into(), json!(step));
    training.extend(reply.provenance.clone());
    // Whatever the plugin calls itself: these two lead back to the run.
    training.insert("run".into(), json!(run.id()));
    store(app, run, name, gathered, training, step, true).await
}

/// Returns what is known about a run without its plugin.
fn provenance(run: &Run) -> Map<String, Value> {
    let job = &run.job;
    let mut training = Map::new();
    training.insert("run".into(), json!(job.id));
    training.insert("witness".into(), json!(VERSION));
    if let Some(base) = &job.base {
        training.insert("base".into(), json!({ "name": base.name, "digest": base.files_digest }));
    }
    let data: Vec<Value> = job
        .data
        .iter()
        .map(|file| json!({ "name": file.name, "digest": file.digest }))
        .collect();
    training.insert("data".into(), Value::Array(data));
    training.insert("settings".into(), Value::Object(job.request.settings.clone()));
    training.insert("seed".into(), json!(job.settings.seed));
    if let Some(recipe) = &job.request.recipe {
        training.insert("recipe".into(), recipe.clone());
    }
    training
}

/// Returns as many of the newest checkpoints with an adapter as a model can have beside its first.
fn latest(checkpoints: Vec<CheckpointRecord>) -> Vec<CheckpointRecord> {
    let mut kept: Vec<_> = checkpoints
        .into_iter()
        .filter(|checkpoint| !checkpoint.files.is_empty())
        .collect();
    kept.drain(..kept.len().saturating_sub(ADAPTERS_MAX - 1));
    kept
}

/// Stores an adapter as the first of its model and the checkpoints beside it.
fn gather_adapters(
    registry: &Registry,
    output: &Path,
    directory: &str,
    files: &[String],
    checkpoints: &[CheckpointRecord],
) -> Result<Gathered, Diagnostic> {
    let mut leases = Vec::new();
    let first = AdapterSpec {
        name: ADAPTER_DEFAULT.to_owned(),
        files: import(registry, output, directory, files, &mut leases)?,
    };
    let mut adapters = vec![first];
    for checkpoint in checkpoints {
        // One that the limit removed between its report and now is not there to be kept.
        if !output.join(&checkpoint.directory).is_dir() {
            continue;
        }
        adapters.push(AdapterSpec {
            name: format!("checkpoint-{}", checkpoint.step),
            files: import(registry, output, &checkpoint.directory, &checkpoint.files, &mut leases)?,
        });
    }
    Ok(Gathered {
        adapters: adapters.iter().map(|adapter| adapter.name.clone()).collect(),
        product: Product::Adapters(adapters),
        leases,
    })
}

/// Copies files of a run into the store.
fn import(
    registry: &Registry,
    output: &Path,
    directory: &str,
    names: &[String],
    leases: &mut Vec<Lease>,
) -> Result<Vec<FileRef>, Diagnostic> {
    if names.is_empty() || names.len() > FILES_MAX {
        return Err(no_product(format!("it names {} files", names.len())));
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = inside(output, directory, name)?;
        let (file, lease) = product::store(registry, name, &path, ImportOptions::default())?;
        files.push(file);
        leases.push(lease);
    }
    Ok(files)
}

/// Returns the path of a file of a run, if it leads nowhere else.
fn inside(output: &Path, directory: &str, name: &str) -> Result<PathBuf, Diagnostic> {
    check_file_name(directory, directory)?;
    check_file_name(name, name)?;
    let path = output.join(directory).join(name);
    let resolved =
        product::resolve_inside(output, &path).map_err(|error| no_product(format!("`{}`: {error}", path.display())))?;
    resolved.ok_or_else(|| no_product(format!("`{}` leads out of the run's directory", path.display())))
}

fn no_product(cause: String) -> Diagnostic {
    product::refuse("the plugin", cause)
}

/// Has a model made of what was gathered, and tells the run's followers.
async fn store(
    app: &Arc<App>,
    run: &Arc<Run>,
    name: ModelName,
    gathered: Gathered,
    training: Map<String, Value>,
    step: u64,
    prove: bool,
) -> Result<(), Diagnostic> {
    let Gathered {
        product,
        adapters,
        leases,
    } = gathered;
    let parent = {
        let (registry, run) = (app.library.registry.clone(), Arc::clone(run));
        blocking(move || run.parent(&registry)).await?.map(Arc::new)
    };
    let request = &run.job.request;
    let trained = |check: bool, product: Product| Trained {
        name: name.clone(),
        parent: parent.clone(),
        product,
        texts: Texts {
            template: request.template.clone(),
            system: request.system.clone(),
            parameters: request.parameters.clone(),
            messages: request.messages.clone(),
            license: request.license.clone(),
        },
        training: training.clone(),
        check,
        // What is not done yet stands back behind what somebody else made; the product of the whole run was asked for by name.
        yields_name: !prove,
    };
    let mut made = make(app, trained(prove, product.clone())).await;
    if let (true, Err(error)) = (prove, &made)
        && !DISPROOFS.contains(&error.code.as_str())
    {
        // No room to load the base, say. A day of training is not thrown away for that.
        let message = format!("the adapter could not be tried on its base and is stored all the same: {error}");
        let unproven = Trained {
            yields_name: false,
            ..trained(false, product)
        };
        made = make(app, unproven).await;
        if made.is_ok() {
            change(run, move |run| run.tell(&TrainJobLine::Notice { message })).await;
        }
    }
    drop(leases);
    made?;
    let published = TrainJobLine::Published {
        model: run.model(),
        adapters,
        step,
    };
    change(run, move |run| run.tell(&published)).await;
    Ok(())
}

async fn make(app: &Arc<App>, trained: Trained) -> Result<(), Diagnostic> {
    let registry = app.library.registry.clone();
    let order = blocking(move || Order::of_training(&registry, trained)).await?;
    // Nobody reads these lines: a channel without a reader takes them at once.
    let (lines, _) = tokio::sync::mpsc::channel(1);
    create::run(Arc::clone(app), order, lines).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_from_the_runs_directory_only() {
        let home = tempfile::tempdir().unwrap();
        let output = home.path().join("output");
        std::fs::create_dir_all(output.join("final")).unwrap();
        std::fs::write(output.join("final/a"), "a").unwrap();
        std::fs::write(home.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(home.path().join("secret"), output.join("final/link")).unwrap();
        std::os::unix::fs::symlink(home.path(), output.join("way-out")).unwrap();
        std::os::unix::fs::symlink("a", output.join("final/near")).unwrap();
        assert!(inside(&output, "final", "a").is_ok());
        assert!(inside(&output, "final", "near").is_ok(), "a link that stays inside");
        for (directory, name) in [
            ("final", "../../secret"),
            ("final", "link"),
            ("way-out", "secret"),
            ("..", "secret"),
            ("final", "/etc/passwd"),
            ("final", "missing"),
            ("", "a"),
        ] {
            assert!(inside(&output, directory, name).is_err(), "{directory} {name}");
        }
    }

    #[test]
    fn the_newest_checkpoints_are_kept_up_to_the_limit() {
        let checkpoints = (1..=100)
            .map(|step| CheckpointRecord {
                step,
                directory: String::new(),
                files: if step % 2 == 0 { vec!["a".into()] } else { vec![] },
            })
            .collect();
        let kept = latest(checkpoints);
        assert_eq!((kept.len(), kept[0].step), (50, 2));
        let many = (1..=100)
            .map(|step| CheckpointRecord {
                step,
                directory: String::new(),
                files: vec!["a".into()],
            })
            .collect();
        let kept = latest(many);
        assert_eq!(
            (kept.len(), kept[0].step),
            (ADAPTERS_MAX - 1, 100 - ADAPTERS_MAX as u64 + 2)
        );
    }
}
