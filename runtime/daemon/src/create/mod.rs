//! Making a model: the server half of `witness create`.
//!
//! ```text
//! Order (names, digests, texts checked) -> base and adapters inspected in a limited worker -> each new adapter proven on the loaded base
//!   -> text layers -> config -> manifest, last
//! ```
//!
//! **Invariants:** nothing is visible before the manifest is written; a failure leaves only blobs that the collector takes; files that came
//! from outside are opened by a worker only.

mod draft;
mod layers;
pub(crate) mod order;
mod prove;

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use witness_api::Progress;
use witness_diagnostics::{Diagnostic, Kind};
use witness_plugin_protocol::{AdapterInfo, ModelInfo, ModelSpec, TransformPlan, TransformRequest};
use witness_registry::Manifest;

use crate::app::{App, VERSION};
use crate::models::config::{ConfigBlob, WitnessConfig};
use crate::models::library::blocking;
use crate::reply::invalid;
use crate::template::Template;
use crate::transform;
use order::Order;

/// Code of the refusal of a name that was taken while its model was made.
pub(crate) const NAME_TAKEN: &str = "witness::daemon::name_taken";

/// Where progress goes. A reader that left does not stop a line from being written.
pub(crate) type Lines = mpsc::Sender<Progress>;

async fn say(lines: &Lines, text: impl Into<String>) {
    let _ = lines.send(Progress::status(text)).await;
}

/// Carries out an order. Returns the last line.
pub(crate) async fn run(app: Arc<App>, mut order: Order, lines: Lines) -> Result<Progress, Diagnostic> {
    say(&lines, "gathering model components").await;
    let mut witness = inspect(&app, &order, &lines).await?;
    if let Some(request) = order.transform.clone() {
        let account = transform_base(&app, &mut order, request, &witness, &lines).await?;
        witness = inspect(&app, &order, &lines).await?;
        witness.made = Some(account);
    }
    if order.check && !order.new_adapters.is_empty() {
        prove::adapters(&app, &order, &witness, &lines).await?;
    }
    if order.yields_name && !is_free_or_of_run(&app, &order).await {
        return Err(Diagnostic::new(
            NAME_TAKEN,
            Kind::Conflict,
            format!("`{}` was made by somebody else meanwhile", order.name.display_short()),
        ));
    }
    let info = witness.info.clone().unwrap_or_default();
    let (told, mut told_lines) = mpsc::unbounded_channel();
    let registry = app.library.registry.clone();
    let writing = blocking(move || {
        // The lines of the layers come after the fact, so that no disk waits for a reader.
        let mut say = |text: String| {
            let _ = told.send(text);
        };
        let layers = layers::write(&registry, &order, &mut say)?;
        let digests: Vec<_> = layers.layers.iter().map(|layer| layer.digest).collect();
        let config = ConfigBlob::new(&info, witness, &digests);
        let bytes = serde_json::to_vec(&config).map_err(|error| {
            Diagnostic::new("witness::daemon::json", Kind::Internal, "the config cannot be written")
                .cause(error.to_string())
        })?;
        let (config, _lease) = layers::put(&registry, witness_registry::media::CONFIG, &bytes, &mut say)?;
        say("writing manifest".into());
        let manifest = Manifest::new(config, layers.layers);
        registry
            .write_manifest(&order.name, &manifest)
            .map_err(Diagnostic::from)?;
        Ok::<_, Diagnostic>((order, manifest.digests()))
    });
    tokio::pin!(writing);
    let (order, named) = loop {
        tokio::select! {
            Some(text) = told_lines.recv() => say(&lines, text).await,
            result = &mut writing => break result?,
        }
    };
    while let Ok(text) = told_lines.try_recv() {
        say(&lines, text).await;
    }
    app.library.named(&named);
    tracing::info!(model = %order.name, adapters = order.adapters.len(), "created");
    Ok(Progress::status("success"))
}

/// Asks what the base would become. Makes nothing.
pub(crate) async fn plan(app: &Arc<App>, order: &Order) -> Result<TransformPlan, Diagnostic> {
    let Some(request) = &order.transform else {
        return Err(invalid(
            "plan_nothing",
            "neither `quantize` nor `merge` says what the model becomes",
        )
        .hint("name a type in `quantize`, such as `q4_K_M`, or an adapter in `merge`"));
    };
    // Nobody reads the lines of an answer that is one object.
    let (lines, _) = mpsc::channel(1);
    let info = inspect(app, order, &lines).await?.info.unwrap_or_default();
    let (_, plan) = app.engine.plan_transform(request, &info.architecture).await?;
    Ok(plan)
}

/// Has the base made over, and returns how that was done.
async fn transform_base(
    app: &Arc<App>,
    order: &mut Order,
    request: TransformRequest,
    witness: &WitnessConfig,
    lines: &Lines,
) -> Result<Map<String, Value>, Diagnostic> {
    let info = witness.info.clone().unwrap_or_default();
    let made = transform::run(app, request.clone(), &info, lines).await?;
    let account = made.account(&request);
    let registry = app.library.registry.clone();
    say(lines, "storing model").await;
    let stored = blocking(move || made.store(&registry)).await?;
    order.take_made(stored.files, stored.leases)?;
    Ok(account)
}

/// Tells whether the name is nobody's, or that of a model which the order's own run stored.
async fn is_free_or_of_run(app: &App, order: &Order) -> bool {
    match app.library.stored(&order.name.to_string()).await {
        Ok(stored) => {
            let known = stored
                .config
                .witness
                .as_ref()
                .and_then(|witness| witness.training.as_ref());
            let run =
                |training: Option<&Map<String, Value>>| training.and_then(|training| training.get("run").cloned());
            run(known) == run(order.training.as_ref())
        }
        Err(error) => error.kind == Kind::NotFound,
    }
}

/// Has a plugin look at the base, unless a model that it comes from says what it is, and at the new adapters.
async fn inspect(app: &Arc<App>, order: &Order, lines: &Lines) -> Result<WitnessConfig, Diagnostic> {
    let mut inherited = order
        .parent
        .as_ref()
        .and_then(|parent| parent.config.witness.clone())
        .unwrap_or_default();
    if order.base_is_new {
        inherited.info = None;
    }
    if order.adapters.len() == order.new_adapters.len() {
        inherited.adapters.clear();
    }
    let mut witness = WitnessConfig {
        version: VERSION.to_owned(),
        plugin: inherited.plugin,
        info: inherited.info,
        adapters: inherited.adapters,
        draft: inherited.draft.filter(|_| order.draft.is_some()),
        parent: order
            .parent
            .as_ref()
            .map(|parent| parent.name.display_short())
            .unwrap_or_default(),
        requires: order.requires.clone().or(inherited.requires),
        training: order.training.clone().or(inherited.training),
        made: inherited.made.filter(|_| !order.base_is_new),
    };
    // A Jinja template that is new must compile, or no answer would ever come.
    let inherited_template = order.parent.as_ref().and_then(|parent| parent.template.as_ref());
    let new_template = order.template.as_ref().filter(|text| Some(*text) != inherited_template);
    let template = match Template::choose(new_template.map(String::as_str), None) {
        Template::Jinja(text) => Some(text),
        Template::Own | Template::Plain => None,
    };
    let is_draft_new = order.draft_is_new || order.base_is_new;
    let draft = order.draft.as_ref().filter(|_| is_draft_new).map(|draft| ModelSpec {
        files: draft.files.clone(),
    });
    if witness.info.is_some() && order.new_adapters.is_empty() && template.is_none() && draft.is_none() {
        return Ok(witness);
    }
    say(lines, "inspecting model").await;
    let (plugin, reply) = app
        .library
        .inspect(order.base.clone(), order.new_adapters.clone(), template, draft.clone())
        .await?;
    if reply.adapters.len() != order.new_adapters.len() {
        return Err(Diagnostic::new(
            "witness::daemon::plugin_reply",
            Kind::Plugin,
            format!(
                "plugin `{plugin}` reported on {} adapters of {}",
                reply.adapters.len(),
                order.new_adapters.len()
            ),
        ));
    }
    if reply.model.architecture.is_empty() {
        return Err(Diagnostic::new(
            "witness::daemon::plugin_reply",
            Kind::Plugin,
            format!("plugin `{plugin}` named no architecture"),
        ));
    }
    if draft.is_some() {
        witness.draft = Some(draft_found(&plugin, reply.draft)?);
    }
    let named = reply.adapters.into_iter().zip(&order.new_adapters);
    witness.adapters.extend(named.map(|(info, spec)| AdapterInfo {
        name: spec.name.clone(),
        ..info
    }));
    witness.info = Some(reply.model);
    witness.plugin = plugin;
    Ok(witness)
}

/// Returns what a plugin found out about a draft. One that knows no drafts says nothing.
pub(crate) fn draft_found(plugin: &str, found: Option<ModelInfo>) -> Result<ModelInfo, Diagnostic> {
    found.ok_or_else(|| {
        let message = format!("plugin `{plugin}`, which runs the base, takes no drafts");
        Diagnostic::new("witness::daemon::no_drafts", Kind::Unsupported, message)
            .hint("leave `DRAFT` out, or install a newer version of the plugin")
    })
}
