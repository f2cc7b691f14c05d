//! Finds the reference files beside the checkout.

use std::path::{Path, PathBuf};

/// Returns a path below the reference files, or says on stderr that the test is skipped.
pub(crate) fn shared(relative: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .skip(2)
        .map(|directory| directory.join("../shared").join(relative))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: needs ../shared/{relative}");
    }
    found
}
