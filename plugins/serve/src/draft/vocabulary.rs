//! Which models can guess for a base: those of our graph that number the same tokens the same.

use witness_diagnostics::{Diagnostic, Kind};
use witness_model::Config;
use witness_plugin_protocol::{ModelInfo, ModelSpec};
use witness_tokenizer::Tokenizer;

use crate::bundle::Bundle;
use crate::inspect::model_info;

/// Tokens that one vocabulary may have more than the other at its end: models of one family are padded to different sizes.
const PADDING_MAX: usize = 512;

/// Looks at a draft beside its base.
pub(crate) fn inspect(base: &Bundle, tokenizer: &Tokenizer, draft: &ModelSpec) -> Result<ModelInfo, Diagnostic> {
    if base.config().is_err() {
        return Err(base_unsupported(&base.architecture()?));
    }
    Ok(examine(&Bundle::open(&draft.files)?, tokenizer)?.1)
}

/// Returns the configuration of a draft and the facts about it, if it can guess for a base with this tokenizer.
pub(super) fn examine(draft: &Bundle, base: &Tokenizer) -> Result<(Config, ModelInfo), Diagnostic> {
    let info = model_info(draft)?;
    let Ok(config) = draft.config() else {
        return Err(unsupported(format!(
            "models of architecture `{}` cannot be drafts here",
            info.architecture
        )));
    };
    refuse_other_words(base, &draft.tokenizer()?)?;
    Ok((config, info))
}

/// Returns the positions that a model can be used for.
pub(super) fn positions(config: &Config) -> usize {
    config.rope.positions_max().unwrap_or(config.context_length)
}

pub(super) fn base_unsupported(architecture: &str) -> Diagnostic {
    unsupported(format!(
        "models of architecture `{architecture}` run without drafts here"
    ))
}

fn unsupported(message: String) -> Diagnostic {
    Diagnostic::new("witness::serve::drafts_unsupported", Kind::Unsupported, message).hint(format!(
        "drafts and their bases can be {}; leave `DRAFT` out for others",
        witness_model::config::family_names().join(", ")
    ))
}

fn refuse_other_words(base: &Tokenizer, draft: &Tokenizer) -> Result<(), Diagnostic> {
    let (of_base, of_draft) = (base.vocab_size(), draft.vocab_size());
    let n_common = of_base.min(of_draft) as u32;
    // What one file leaves out the other may fill up.
    let is_other = |one: &str, other: &str| one != other && !one.is_empty() && !other.is_empty();
    let other = (0..n_common).find(|&id| is_other(base.token_text(id), draft.token_text(id)));
    let cause = match other {
        Some(id) => format!(
            "token {id} is `{}` in the base and `{}` in the draft",
            base.token_text(id).escape_debug(),
            draft.token_text(id).escape_debug()
        ),
        None if of_base.abs_diff(of_draft) > PADDING_MAX => {
            format!("the base has {of_base} tokens and the draft {of_draft}")
        }
        None => return Ok(()),
    };
    let message = "the draft does not have the vocabulary of the base, so it cannot guess its tokens";
    Err(
        Diagnostic::new("witness::serve::draft_vocabulary", Kind::Invalid, message)
            .cause(cause)
            .hint("name a smaller model of the base's own family, made with the same tokenizer; or leave `DRAFT` out"),
    )
}
