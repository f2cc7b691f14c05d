//! `witness cp` and `witness rm`.

use crate::desk::{Desk, until};

#[test]
fn a_copy_outlives_its_source() {
    let desk = Desk::with_quick();
    desk.run(["cp", "quick", "kept"]).ok();
    desk.run(["rm", "quick"]).ok();
    assert_eq!(desk.run(["run", "kept", "--adapter", "base", "hi"]).ok(), "Hello.\n");
    assert!(desk.run(["cp", "quick", "again"]).refused(3).contains("`quick`"));
}

// The blobs go with the last name that used them.
#[test]
fn files_that_nobody_names_go_too() {
    let desk = Desk::with_quick();
    let blobs = || std::fs::read_dir(desk.path().join("models/blobs")).unwrap().count();
    let count = blobs();
    assert!(count > 0);
    desk.run(["cp", "quick", "kept"]).ok();
    desk.run(["rm", "quick"]).ok();
    assert_eq!(blobs(), count);
    desk.run(["rm", "kept"]).ok();
    // Those of a model that is loaded go when its worker has gone.
    until("the files go with the last name", &|| blobs() == 0);
}

// One name that is not here does not keep the others, and the exit code tells.
#[test]
fn several_names_are_removed_though_one_is_missing() {
    let desk = Desk::with_quick();
    desk.run(["cp", "quick", "second"]).ok();
    let err = desk.run(["rm", "quikc", "quick", "second"]).refused(3);
    assert!(
        err.contains("removed `quick`") && err.contains("removed `second`") && err.contains("`quikc`"),
        "{err}"
    );
    assert_eq!(desk.run(["list"]).ok().lines().count(), 1);
}
