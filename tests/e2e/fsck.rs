//! `witness fsck`: a damaged file is found, named with its model, and set aside on demand.

use crate::desk::Desk;

#[test]
fn a_changed_byte_is_found_and_named() {
    let desk = Desk::with_quick();
    assert!(desk.run(["fsck"]).ok().contains("all sound"));
    let blobs = std::fs::read_dir(desk.path().join("models/blobs")).unwrap();
    let largest = blobs
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    desk.run(["stop", "quick"]).ok();
    let mut bytes = std::fs::read(&largest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let mut permissions = largest.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&largest, permissions).unwrap();
    std::fs::write(&largest, bytes).unwrap();

    let found = desk.run(["fsck"]);
    assert_eq!(found.code, 8, "{}{}", found.out, found.err);
    let digest = largest.file_name().unwrap().to_str().unwrap().replace('-', ":");
    assert!(
        found.out.contains(&digest) && found.out.contains("quick"),
        "{}",
        found.out
    );
    assert!(found.out.contains("--repair"), "{}", found.out);

    let repaired = desk.run(["fsck", "--repair", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&repaired.out).unwrap();
    assert!(
        report["problems"]
            .as_array()
            .unwrap()
            .iter()
            .any(|problem| problem["repaired"].is_string()),
        "{report}"
    );
    // The recipe makes the model whole again.
    desk.run(["create", "quick", "-f", &crate::desk::toy("Modelfile")]).ok();
    assert_eq!(desk.run(["run", "quick", "--adapter", "base", "hi"]).ok(), "Hello.\n");
}
