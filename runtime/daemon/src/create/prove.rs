//! The proof that an adapter does something: the base runs a few tokens with and without it, and the logits must differ.
//!
//! The base is loaded as for any request, so its memory is reckoned, idle models make room, and the first real request finds it loaded.

use std::sync::Arc;

use witness_api::Options;
use witness_diagnostics::{Diagnostic, Kind};

use super::order::Order;
use super::{Lines, say};
use crate::app::App;
use crate::chats;
use crate::models::config::WitnessConfig;
use crate::models::handle::Want;
use crate::models::slot::Label;
use crate::packed;
use crate::reckon::{lease_of, load_want};

/// Proves every new adapter of an order.
pub(super) async fn adapters(
    app: &Arc<App>,
    order: &Order,
    witness: &WitnessConfig,
    lines: &Lines,
) -> Result<(), Diagnostic> {
    let info = witness.info.clone().unwrap_or_default();
    let (options, _) = Options::read(&order.parameters)?;
    let (demand, load) = load_want(app, &order.base, &info, &options, None);
    let want = Want {
        demand,
        model: order.base.clone(),
        options: load,
        architecture: info.architecture.clone(),
        may_pack: packed::may_pack(&info),
        label: Label {
            name: order.name.display_short(),
            ..Label::default()
        },
        chats: chats::place(&app.settings, &order.base.files),
        lease: lease_of(app, &order.base.files),
    };
    say(lines, "loading model to check its adapters").await;
    let held = app.models.acquire(want).await.map_err(|refusal| {
        refusal
            .diagnostic
            .hint("to create without this check, say `\"check\": false`")
    })?;
    for adapter in &order.new_adapters {
        say(lines, format!("checking adapter `{}`", adapter.name)).await;
        let reply = Arc::clone(&held.slot).prove(adapter.clone()).await?;
        let Some(check) = reply.check else {
            return Err(Diagnostic::new(
                "witness::daemon::plugin_reply",
                Kind::Plugin,
                "the plugin did not report on its check of an adapter",
            ));
        };
        let difference = check.logit_difference_max;
        if !difference.is_finite() {
            return Err(Diagnostic::new(
                "witness::daemon::adapter_broken",
                Kind::Invalid,
                format!("adapter `{}` makes logits that are no numbers", adapter.name),
            )
            .hint("its weights may be damaged; look at its training"));
        }
        if difference == 0.0 {
            return Err(Diagnostic::new(
                "witness::daemon::adapter_no_effect",
                Kind::Invalid,
                format!(
                    "adapter `{}` changes nothing: over {} tokens every logit equals the base's",
                    adapter.name, check.tokens
                ),
            )
            .cause("an adapter that was never trained has a `lora_B` of zeros")
            .hint("to create with it all the same, say `\"check\": false`"));
        }
        tracing::info!(adapter = %adapter.name, difference, tokens = check.tokens, "proven");
    }
    Ok(())
}
