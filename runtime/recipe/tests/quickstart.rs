//! The recipes of the quick start, read as they are committed: every key reaches a setting.

use std::path::Path;

use witness_plugin_protocol::TrainMethod;
use witness_recipe::{Layers, Recipe, Text};

fn recipe(name: &str) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../modelfiles/quickstart")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("the quick start is committed");
    let text = Some(Text { name, text: &text });
    Recipe::resolve(Layers {
        text,
        ..Layers::default()
    })
    .expect("a recipe that can be read")
}

#[test]
fn the_base_is_a_whole_model_from_nothing() {
    let recipe = recipe("base.yml");
    assert!(recipe.warnings.is_empty(), "{:?}", recipe.warnings);
    assert_eq!(recipe.settings.method, TrainMethod::Full);
    assert!(recipe.base.is_none() && recipe.settings.train_on_inputs && recipe.settings.sample_packing);
}

#[test]
fn the_adapter_stands_on_that_base() {
    let (base, adapter) = (recipe("base.yml"), recipe("expert.yml"));
    assert!(adapter.warnings.is_empty(), "{:?}", adapter.warnings);
    assert_eq!(adapter.settings.method, TrainMethod::Lora);
    assert_eq!(adapter.base, base.name);
    assert!(adapter.base.is_some());
    // Rows of both are cut and packed to the length that the base was made for.
    assert_eq!(adapter.settings.sequence_len, base.settings.sequence_len);
}
