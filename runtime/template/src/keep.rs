//! Bounds what a namespace keeps.
//!
//! A value that is kept from round to round of a loop can be nested once more in each. The engine drops and compares nested values by
//! recursion and without counting, so a template of one line could overflow the stack or compare for hours. Every value that is assigned to
//! a namespace is therefore made anew, plain, with its items counted (a list that holds the same list twice counts it twice) and its depth
//! bounded. Views (slices, reversals) become lists, so that they do not pile up either.

use minijinja::value::{Rest, Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::limits;

/// Name under which a rendering counts the items kept so far.
const TOTAL: &str = "witness_kept_items";

/// Returns the value to be kept: the argument, or a list of several.
pub(crate) fn keep(state: &mut State, values: Rest<Value>) -> Result<Value, Error> {
    let value = match values.as_slice() {
        [value] => value.clone(),
        _ => Value::from(values.0),
    };
    if !is_container(&value) {
        return Ok(value);
    }
    let mut n_items = 0;
    let kept = plain(&value, 0, &mut n_items)?;
    let total = state
        .get_temp(TOTAL)
        .and_then(|total| usize::try_from(total).ok())
        .unwrap_or(0)
        + n_items;
    if total > limits::KEPT_TOTAL_MAX {
        return Err(too_large());
    }
    state.set_temp(TOTAL, Value::from(total));
    Ok(kept)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

fn too_large() -> Error {
    Error::new(ErrorKind::OutOfFuel, "a namespace would keep too large a value")
}

fn plain(value: &Value, depth: usize, n_items: &mut usize) -> Result<Value, Error> {
    *n_items += 1;
    if !is_container(value) {
        return Ok(value.clone());
    }
    if depth >= limits::KEPT_DEPTH_MAX || *n_items > limits::KEPT_ITEMS_MAX {
        return Err(too_large());
    }
    if value.kind() != ValueKind::Map {
        let items: Vec<Value> = value
            .try_iter()?
            .map(|item| plain(&item, depth + 1, n_items))
            .collect::<Result<_, _>>()?;
        let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
        return Ok(if is_tuple {
            Value::from(Tuple::from(items))
        } else {
            Value::from(items)
        });
    }
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let item = plain(&value.get_item(&key)?, depth + 1, n_items)?;
        pairs.push((key, item));
    }
    // A namespace is shared by all who hold it; a copy would not be.
    let is_shared = value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("Namespace"));
    Ok(if is_shared {
        value.clone()
    } else {
        Value::from_pairs(pairs)
    })
}
