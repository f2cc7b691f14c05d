//! `witness exit-codes`, `witness help exit-codes`: what the program returns to its caller.

use witness_diagnostics::Kind;

use crate::context::Outcome;
use crate::render::output;

/// Every kind of failure with its meaning, in the order of its code.
const MEANINGS: &[(Kind, &str)] = &[
    (
        Kind::Invalid,
        "what you gave is wrong: a flag, a name, a Modelfile, a file",
    ),
    (Kind::NotFound, "what you named does not exist"),
    (Kind::Conflict, "what you asked for contradicts what is there"),
    (
        Kind::Unsupported,
        "it is sound, but this version or its plugins cannot do it",
    ),
    (Kind::Forbidden, "you may not do this"),
    (Kind::Busy, "too much is asked at once; try again later"),
    (Kind::Damaged, "something stored is damaged; `witness fsck` says what"),
    (
        Kind::Environment,
        "the machine refused: disk full, no permission, no memory, no daemon",
    ),
    (Kind::Plugin, "a plugin or its worker process failed"),
    (Kind::Internal, "a fault of witness itself; please report it"),
    (Kind::Cancelled, "you stopped it (Ctrl-C)"),
];

/// Returns the table of exit codes as text.
pub(crate) fn text() -> String {
    let mut out = "What the program returns:\n    0  it worked\n".to_owned();
    for (kind, meaning) in MEANINGS {
        out += &format!("  {:>3}  {meaning}\n", kind.exit_code());
    }
    out
}

/// Prints the table.
pub(crate) fn exit_codes() -> Outcome {
    output::print(&text())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The README promises this table; a new kind must be added to both.
    #[test]
    fn the_table_is_complete_ordered_and_in_the_readme() {
        assert!(MEANINGS.is_sorted_by_key(|(kind, _)| kind.exit_code()));
        assert_eq!(MEANINGS.len(), 11);
        let readme = include_str!("../../README.md");
        for (kind, meaning) in MEANINGS {
            let row = format!("| {} | {meaning} |", kind.exit_code());
            assert!(readme.contains(&row), "README lacks `{row}`");
        }
    }
}
